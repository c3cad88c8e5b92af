"""The families of ``tests.support.more_families``: each is true to its pipeline, and the whole method runs on it."""

import copy
import math

import pytest
import torch

from aiao_core import sizing
from aiao_core.denoisers import Inputs, family_of, predict
from aiao_core.denoisers.schedules import RectifiedFlow
from aiao_core.formats.pipelines import build, check_config, fill
from aiao_core.method.embedding import Training
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.method.inputs import plain_noise
from aiao_core.method.key_selection import select_key
from aiao_core.method.tracing import eligible_layers
from aiao_core.options import EmbeddingOptions, VerificationOptions
from aiao_core.verification.verify import Subject, verify
from tests.support.family_pipelines import steps
from tests.support.more_families import CONFIGURATIONS, VARIANTS, make

ALL = [*CONFIGURATIONS, *VARIANTS]
OPTIONS = EmbeddingOptions(steps=12, batch_size=4, layers=16, learning_rate=1e-2)


def noise(model, count=2, seed=0):
    return plain_noise(model.architecture, model.schedule.num_train_timesteps, count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ALL)
def test_each_row_is_predicted_for_itself_and_every_input_counts(name):
    model = make(name)
    family, config = family_of(model.denoiser), model.architecture.config
    inputs, other = noise(model), noise(model, seed=1)
    with torch.no_grad():
        together = predict(model.denoiser, inputs)
        assert together.shape == inputs.noisy.shape == (2, *family.monte_carlo_shape(config))
        torch.testing.assert_close(together[1:], predict(model.denoiser, inputs[1:]), atol=1e-4, rtol=1e-3)
        for changed in (
            Inputs(inputs.noisy, (inputs.timesteps + 300) % 1000, inputs.conditions),
            *(
                Inputs(inputs.noisy, inputs.timesteps, inputs.conditions | {name: other.conditions[name]})
                for name in inputs.conditions
            ),
        ):
            assert not torch.equal(predict(model.denoiser, changed), together)


@pytest.mark.parametrize("name", ALL)
def test_a_prediction_is_that_of_the_pipeline(name):
    """What the network sees in its own pipeline is what it sees here, and the sign of its answer is the schedule's."""
    model = make(name)
    conditions = noise(model).conditions
    if "global_hidden_states" in conditions:  # of Stable Audio: the last two tokens, start and end, once more
        conditions["global_hidden_states"] = conditions["encoder_hidden_states"][:, -2:].flatten(1)[:, None]
    recorded = steps(name, model, conditions)
    assert len(recorded) == 2
    for step in recorded:
        with torch.no_grad():
            ours = predict(model.denoiser, Inputs(step.noisy, step.timesteps, conditions))
        scale = step.prediction.abs().max()
        torch.testing.assert_close(ours / scale, step.prediction / scale, atol=2e-4, rtol=1e-3)
    if name != "Stable Audio":  # whose sampler adds noise
        first, second = recorded
        expected = model.schedule.add_noise(*implied(model.schedule, first), second.timesteps)
        scale = float((first.after - first.noisy).abs().max())
        assert float((first.after - expected).abs().max()) < 0.02 * scale


def implied(schedule, step):
    """The clean image and the noise that a prediction implies under a schedule."""
    if isinstance(schedule, RectifiedFlow):
        share = step.timesteps.view(-1, *[1] * (step.noisy.dim() - 1)) / 1000
        return step.noisy - share * step.prediction, step.noisy + (1 - share) * step.prediction
    signal = schedule.scheduler.alphas_cumprod[step.timesteps].view(-1, *[1] * (step.noisy.dim() - 1))
    image, rest = signal.sqrt(), (1 - signal).sqrt()
    return image * step.noisy - rest * step.prediction, rest * step.noisy + image * step.prediction


def test_a_text_with_padding_is_predicted_as_in_chromas_pipeline():
    model = make("Chroma")
    conditions = noise(model).conditions
    mask = torch.ones(conditions["encoder_hidden_states"].shape[:2])
    mask[:, 10:] = 0
    conditions["encoder_attention_mask"] = mask
    for step in steps("Chroma", model, conditions):
        with torch.no_grad():
            ours = predict(model.denoiser, Inputs(step.noisy, step.timesteps, conditions))
        torch.testing.assert_close(ours, step.prediction, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_weights_fill_an_empty_denoiser_and_it_predicts_the_same(name):
    """Also tensors that no checkpoint holds, such as position embeddings that are no buffers."""
    model = make(name)
    check_config(model.architecture.config)
    empty = build(model.architecture)
    fill(empty, dict(model.denoiser.state_dict()))
    inputs = noise(model)
    with torch.no_grad():
        assert torch.equal(predict(empty, inputs), predict(model.denoiser, inputs))


@pytest.mark.parametrize("name", ALL)
def test_a_key_finds_many_layers_none_of_them_of_time_or_text_alone(name):
    model = make(name)
    names = [layer.name for layer in eligible_layers(model.denoiser, noise(model))]
    assert len(names) >= 8
    assert not [layer for layer in names if layer.startswith(("time", "context_embedder", "txt_in", "text_", "adaLN"))]


QUICKEST = ("Chroma", "Wan")
"""An image and a video, which stand for the others in `make test`."""


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICKEST else pytest.mark.slow) for name in CONFIGURATIONS]
)
def test_a_few_steps_of_embedding_lower_every_term_and_a_verification_reads_the_model(name):
    model = make(name)
    source = copy.deepcopy(model.denoiser)
    inputs = noise(model, 4)
    examples = Examples(inputs.noisy, inputs.conditions)
    key = select_key(model, bytes(range(32)), examples, OPTIONS)
    training = Training(model, key, examples, OPTIONS)
    generator = torch.Generator().manual_seed(0)
    for parameter in training.trained:  # or only one term would be there to lower
        parameter.data += 0.5 * parameter.data.abs().mean() * torch.randn(parameter.shape, generator=generator)
    terms = []
    for _ in range(OPTIONS.steps):
        training.update(inputs)
        terms.append(training.metrics)
    for term in ("response", "preserve", "covert"):
        first, last = (sum(each[term] for each in part) for part in (terms[:3], terms[-3:]))
        assert 0 <= last < first, (term, first, last)
    training.finish()
    fine_tune(model, examples, steps=1, learning_rate=1e-4, batch_size=2)
    options = VerificationOptions(seed=1, draws=8, decoys=2)
    report = verify(model.denoiser, key, source=source, options=options, subject=Subject("s", "model"))
    assert report.test.bits == key.bits


@pytest.mark.parametrize("name", ALL)
def test_the_estimate_of_memory_knows_how_much_is_trained_on(name):
    model = make(name)
    family, config = family_of(model.denoiser), model.architecture.config
    stated = sizing.positions(model.architecture.class_name)
    trained = math.prod(family.shape(config)[1:])
    assert stated is None if "sample_size" in config and name != "Stable Audio" else stated is None or stated >= trained
    assert sizing.activation_bytes(model.architecture.class_name) == family.activation_bytes
