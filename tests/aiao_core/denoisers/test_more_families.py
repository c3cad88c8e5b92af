"""The families of ``tests.support.more_families``: each is true to its pipeline, and the whole method runs on it."""

import copy
import inspect
import json
import math

import pytest
import torch

from aiao_core import sizing
from aiao_core.denoisers import Inputs, cosmos, family_of, predict
from aiao_core.denoisers.schedules import RectifiedFlow
from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.pipelines import build, fill, try_out
from aiao_core.key import Architecture
from aiao_core.method.acceleration import accelerator, frozen_source
from aiao_core.method.embedding import Training
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.method.inputs import own_samples, plain_noise
from aiao_core.method.key_selection import select_key
from aiao_core.method.tracing import eligible_layers
from aiao_core.options import EmbeddingOptions, VerificationOptions
from aiao_core.verification.verify import Subject, verify
from tests.support.family_pipelines import steps
from tests.support.more_families import CONFIGURATIONS, VARIANTS, make

ALL = [*CONFIGURATIONS, *(pytest.param(name, marks=pytest.mark.long) for name in VARIANTS)]
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


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_weights_fill_an_empty_denoiser_and_it_predicts_the_same(name):
    """Also tensors that no checkpoint holds, such as position embeddings that are no buffers."""
    model = make(name)
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


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_gradient_checkpointing_leaves_the_gradient_as_it_is(name):
    model = make(name)
    inputs, gradients = noise(model), []
    for checkpointing in (False, True):
        denoiser = copy.deepcopy(model.denoiser).requires_grad_(True)
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        predict(denoiser, inputs).square().sum().backward()
        gradients.append([value.grad for value in denoiser.parameters() if value.grad is not None])
    assert len(gradients[0]) > 0.8 * len(list(model.denoiser.parameters()))
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-4 * float(plain.abs().max()) + 1e-9, rtol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_half_precision_predicts_about_the_same(name):
    """As in an embedding in bf16: a frozen source of half the size, and inputs as they were drawn."""
    model, options = make(name), EmbeddingOptions(precision="bf16")
    inputs, machine = noise(model), accelerator("bf16")
    with torch.no_grad(), machine.autocast():
        half = predict(frozen_source(model.denoiser, machine, options), inputs).float()
    with torch.no_grad():
        whole = predict(model.denoiser, inputs)
    tolerance = 0.3 if name == "Chroma" else 0.03  # it rounds its timestep, as in its pipeline
    assert float((half - whole).norm()) < tolerance * float(whole.norm())


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_a_prediction_at_the_size_of_training_has_that_size(name):
    model = make(name)
    shape = family_of(model.denoiser).shape(model.architecture.config)
    inputs = Inputs(torch.randn(1, *shape), torch.tensor([500]), noise(model, 1).conditions)
    with torch.no_grad():
        prediction = predict(model.denoiser, inputs)
    assert prediction.shape == (1, *shape)
    assert prediction.isfinite().all()


@pytest.mark.parametrize("name", ["Qwen-Image", "LTX-2", "CogVideoX", "Stable Audio"])
def test_a_model_draws_its_own_examples(name):
    """Images, videos with sound, by diffusion, and sounds."""
    model = make(name)
    family, config = family_of(model.denoiser), model.architecture.config
    conditions = family.random_conditions(config, 1, torch.Generator().manual_seed(0))
    drawn = own_samples(model, conditions, count=1, seed=0, steps=2)
    assert drawn.shape == (1, *family.shape(config))
    assert drawn.isfinite().all()


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


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("Z-Image", "axes_lens", [10**9, 64, 64]),
        ("CogVideoX", "max_text_seq_length", 10**6),
        ("CogVideoX", "sample_frames", 10**6),
        ("Kandinsky 5", "num_visual_blocks", 10**6),
        ("HiDream", "num_routed_experts", 10**6),
        ("HunyuanVideo", "rope_axes_dim", [10**12, 2, 2]),
        ("HunyuanVideo", "rope_theta", float("inf")),
    ],
)
def test_sizes_that_ask_for_too_much_are_refused(family, name, value):
    model = make(family)
    architecture = model.architecture.model_copy(update={"config": model.architecture.config | {name: value}})
    with pytest.raises(InvalidCheckpoint, match=f"{name}|sample_size"):
        fill(build(architecture), dict(model.denoiser.state_dict()))


@pytest.mark.long
@pytest.mark.parametrize(
    "denoiser",
    sorted({denoiser for denoiser, *_ in CONFIGURATIONS.values()}, key=lambda each: each.__name__),
    ids=lambda each: each.__name__,
)
def test_published_sizes_are_not_refused(denoiser):
    """diffusers' defaults are those of a published model."""
    parameters = inspect.signature(denoiser.__init__).parameters.values()
    config = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    if denoiser.__name__.startswith("HiDream"):
        config |= {"patch_size": 2, "llama_layers": [*range(32), *[31] * 16], "caption_channels": [4096, 4096]}
    build(Architecture(class_name=denoiser.__name__, config=json.loads(json.dumps(config))))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Kandinsky 5", {"attention_type": "nabla"}),
        ("Sana", {"guidance_embeds": True}),
        ("HunyuanImage", {"use_meanflow": True}),
        ("HunyuanVideo", {"image_condition_type": "token_replace"}),
        ("LTX-2", {"audio_in_channels": 64}),
        ("Cosmos", {"img_context_dim_in": 8}),
    ],
)
def test_a_model_that_needs_more_than_its_family_gives_is_refused_with_the_reason(name, options):
    model = make(name)
    architecture = model.architecture.model_copy(update={"config": model.architecture.config | options})
    with pytest.raises(WrongArchitecture, match="support") as refused:
        try_out(model.denoiser, architecture)
    assert "cannot be run" not in str(refused.value)


def test_cosmos_without_torchvision_says_what_to_install(monkeypatch):
    model = make("Cosmos")
    monkeypatch.setattr(cosmos, "is_torchvision_available", lambda: False)
    config = model.architecture.config | {"concat_padding_mask": True}
    with pytest.raises(WrongArchitecture, match="torchvision, which is not installed here"):
        try_out(model.denoiser, model.architecture.model_copy(update={"config": config}))


def test_a_model_for_inpainting_is_refused_in_words():
    model = make("Qwen-Image")
    wider = type(model.denoiser)(**model.architecture.config | {"in_channels": 32}).requires_grad_(False)
    architecture = model.architecture.model_copy(update={"config": model.architecture.config | {"in_channels": 32}})
    with pytest.raises(WrongArchitecture, match="takes 8 channels and predicts 4"):
        try_out(wider, architecture)
