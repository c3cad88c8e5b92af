import copy
import resource
from collections import Counter
from dataclasses import replace
from statistics import mean

import pytest
import torch
from scipy.stats import binomtest

from aiao_core.errors import Canceled, EmbeddingFailed
from aiao_core.formats.pipelines import load_model
from aiao_core.method.embedding import NEAR, Training, embed
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.method.inputs import own_samples
from aiao_core.method.key_selection import select_key
from aiao_core.method.objective import objective
from aiao_core.method.resume import FileCheckpoint, write_state
from aiao_core.method.watermark import Neighbor
from aiao_core.options import EmbeddingOptions
from aiao_core.verification.verify import Subject, verify
from demo_models.emoji.data import MODEL
from tests.support.tiny_models import QUICK, make_tiny_model

SEED = bytes(range(32))


def weights(model):
    return model.denoiser.state_dict()


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


class StopAt:
    """Cancels an embedding after its ``step``-th training step, as a killed worker would end."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, progress) -> None:
        if progress.stage == "embedding" and progress.step == self.step:
            raise Canceled("stop")


STOPS = [[3], [2, 4], *(pytest.param(stops, marks=pytest.mark.slow) for stops in ([1], [2], [5], [1, 1, 3]))]


@pytest.mark.long
@pytest.mark.parametrize("stops", STOPS)
def test_a_stopped_embedding_goes_on_to_the_same_bits(tmp_path, tiny_examples, stops):
    undisturbed = make_tiny_model()
    expected = embed(undisturbed, SEED, examples=tiny_examples, options=QUICK)
    store = FileCheckpoint(tmp_path / "state")
    for stop in stops:
        with pytest.raises(Canceled):
            embed(make_tiny_model(), SEED, examples=tiny_examples, options=QUICK, store=store, progress=StopAt(stop))
    resumed = make_tiny_model()
    found = embed(resumed, SEED, examples=tiny_examples, options=QUICK, store=store)
    assert same(weights(resumed), weights(undisturbed))
    assert (found.key, found.metrics) == (expected.key, expected.metrics)


def test_the_training_checkpoint_holds_no_secret(tmp_path, tiny_examples):
    store = FileCheckpoint(tmp_path / "state")
    found = embed(make_tiny_model(), SEED, examples=tiny_examples, options=QUICK, store=store)
    content = (tmp_path / "state").read_bytes()
    assert SEED not in content
    assert found.key.secret.encode() not in content


def test_without_images_the_model_draws_its_own(tiny_examples):
    stages = []
    model = make_tiny_model()
    before = copy.deepcopy(weights(model))
    embed(model, SEED, options=QUICK, progress=lambda progress: stages.append(progress.stage))
    assert list(dict.fromkeys(stages)) == ["samples", "reach", "embedding"]
    assert not same(before, weights(model))
    samples = own_samples(make_tiny_model(), {}, count=5, seed=3)
    assert samples.shape == (5, 3, 8, 8)
    assert torch.equal(samples, own_samples(make_tiny_model(), {}, count=5, seed=3))


def test_progress_is_told_at_every_step(tiny_examples):
    reports = []
    embed(make_tiny_model(), SEED, examples=tiny_examples, options=QUICK, progress=reports.append)
    steps = [report.step for report in reports if report.stage == "embedding"]
    assert steps == list(range(1, QUICK.steps + 1))
    assert set(reports[-1].metrics) == {"response", "preserve", "covert"}


@pytest.mark.slow
def test_a_trigger_layer_is_trained_as_often_as_another_that_starts_more_subpaths(tiny_examples, monkeypatch):
    model = make_tiny_model()
    key = select_key(model, SEED, tiny_examples, QUICK)
    first, *_, rare, last = range(len(key.layers))
    key = replace(key, subpaths=(*((first, later) for later in range(1, last + 1)), (rare, last)))
    drawn = Counter()

    def recorded(marked, source, watermark, scales, inputs, trigger_layers, decoys):
        drawn.update(trigger_layers)
        return objective(marked, source, watermark, scales, inputs, trigger_layers, decoys)

    monkeypatch.setattr("aiao_core.method.embedding.objective", recorded)
    training = Training(model, key, tiny_examples, EmbeddingOptions(steps=100, batch_size=8))
    for _ in range(100):
        training.advance()
    assert drawn.keys() == {first, rare}
    assert binomtest(drawn[rare], drawn.total()).pvalue > 1e-6


def test_a_diverging_objective_is_refused(tiny_examples):
    model = make_tiny_model()
    model.denoiser.get_parameter("conv_out.weight").data[0, 0, 0, 0] = 3e38
    with pytest.raises(EmbeddingFailed, match="diverged at step 1"):
        embed(model, SEED, examples=tiny_examples, options=QUICK)


def test_most_decoys_are_near_neighbors_of_the_owners_triggers(tiny_examples):
    """At trigger layers alone; the neighbors share some of the owner's channels, and the others are of a fresh key."""
    model = make_tiny_model()
    key = select_key(model, SEED, tiny_examples, QUICK)
    training = Training(model, key, tiny_examples, EmbeddingOptions(steps=100, batch_size=16))
    drawn = [decoy for _ in range(100) for decoy in training.decoys()]
    near = [(decoy, i) for decoy, i in drawn if isinstance(decoy, Neighbor)]
    assert len(drawn) == 800
    assert binomtest(len(near), len(drawn), NEAR).pvalue > 1e-6
    assert {i for _, i in drawn} == set(key.trigger_layers)
    others = [decoy for decoy, _ in drawn if not isinstance(decoy, Neighbor)]
    assert len({decoy._key.seed for decoy in others}) > 80
    kept = []
    for decoy, i in near:
        mask, sign = training.watermark.trigger_at(i)
        other_mask, other_sign = decoy.trigger_at(i)
        kept.append(((mask == other_mask) & (sign == other_sign)).double().mean().item())
    # A channel that is drawn again has the same mask and sign in a quarter of cases: 0.4 of them are drawn again in the mean.
    assert mean(kept) == pytest.approx(1 - 0.4 * 0.75, abs=0.03)
    assert min(kept) > 0


@pytest.mark.slow
@pytest.mark.xdist_group("emoji")
def test_the_mark_is_embedded_and_outlives_a_thief(emoji_marked, emoji_examples):
    """The claim of the paper in small: on the trained model, a short embedding, full fine-tuning on other images."""
    (emoji_model, key), source = emoji_marked, load_model(MODEL).denoiser
    marked = verify(emoji_model.denoiser, key, subject=Subject("marked", "model"), source=source)
    assert marked.verdict == "match"
    assert marked.test.log10_p < -100
    assert all(decoy.log10_p > -6 for decoy in marked.decoys)

    fine_tune(emoji_model, Examples(emoji_examples.clean[:64].flip(-1), {}), steps=40, learning_rate=2e-4)
    stolen = verify(emoji_model.denoiser, key, subject=Subject("stolen", "model"), source=source)
    assert stolen.verdict == "match"
    assert stolen.test.log10_p < -30

    innocent = fine_tuned_copy(source, emoji_examples)
    assert verify(innocent, key, subject=Subject("a relative of the source", "model"), source=source).verdict == "no-match"


def fine_tuned_copy(denoiser, examples):
    """A model that somebody made from the same source."""
    model = replace(load_model(MODEL), denoiser=copy.deepcopy(denoiser))
    fine_tune(model, Examples(examples.clean[:64], {}), steps=20, learning_rate=2e-4)
    return model.denoiser


def test_a_training_state_that_finds_no_room_says_so(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="is the disk full"):
            write_state({"weights": torch.ones(1_000_000)}, FileCheckpoint(tmp_path / "kept.pt"), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "kept.pt").exists()
