import copy
import re

import pytest
import torch
from diffusers import FluxPipeline

from aiao_core import denoisers
from aiao_core.denoisers import Inputs, family_named, family_of, predict
from aiao_core.denoisers.schedules import RectifiedFlow
from aiao_core.errors import WrongArchitecture
from aiao_core.formats.pipelines import build, fill
from aiao_core.method.embedding import embed, own_examples
from aiao_core.method.fine_tuning import fine_tune, randomly_conditioned
from aiao_core.method.inputs import arbitrary_inputs, plain_noise
from aiao_core.method.tracing import eligible_layers
from aiao_core.options import EmbeddingOptions, VerificationOptions
from aiao_core.verification.verify import Subject, verify
from tests.support.families import CONFIGURATIONS, make, make_from
from tests.support.places import PROJECT

QUICK = EmbeddingOptions(steps=3, batch_size=4, samples=4, layers=24)


@pytest.fixture(params=CONFIGURATIONS)
def model(request):
    return make(request.param)


def noise(model, count=3, seed=0):
    return plain_noise(model.architecture, model.schedule.num_train_timesteps, count, torch.Generator().manual_seed(seed))


def test_the_prediction_has_the_shape_of_the_input_at_the_models_size_and_in_verification(model):
    family = family_of(model.denoiser)
    small = family.monte_carlo_shape(model.architecture.config)
    assert noise(model).noisy.shape == (3, *small)
    assert max(small[1:]) <= 16
    for shape in (small, family.shape(model.architecture.config)):
        inputs = Inputs(torch.randn(1, *shape), torch.tensor([500]), noise(model, 1).conditions)
        prediction = predict(model.denoiser, inputs)
        assert prediction.shape == (1, *shape)
        assert prediction.isfinite().all()


def test_every_row_of_a_batch_is_predicted_for_itself(model):
    inputs = noise(model)
    together = predict(model.denoiser, inputs)
    for row in range(3):
        alone = predict(model.denoiser, inputs[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_every_input_counts(model):
    """The timestep and each condition change the prediction: none is dropped on the way."""
    inputs, other = noise(model, 1), noise(model, 1, seed=1)
    plain = predict(model.denoiser, inputs)
    changed = [Inputs(inputs.noisy, (inputs.timesteps + 300) % 1000, inputs.conditions)]
    changed += [
        Inputs(
            inputs.noisy,
            inputs.timesteps,
            inputs.conditions | {name: value + 1 if value.dtype == torch.int64 else other.conditions[name]},
        )
        for name, value in inputs.conditions.items()
        if name != "class_labels" or int(value) < 4
    ]
    for batch in changed:
        assert not torch.equal(predict(model.denoiser, batch), plain)


def test_eligible_layers_depend_on_the_noisy_input_and_are_many(model):
    layers = eligible_layers(model.denoiser, noise(model, 2))
    names = [layer.name for layer in layers]
    assert len(names) >= 12
    assert not [
        name for name in names if "time" in name or "adaln" in name or name.startswith(("proj_out", "conv_out", "context"))
    ]


def test_embeds_fine_tunes_and_verifies(model):
    """The whole method runs on every family; what it achieves is shown on trained models."""
    seed = bytes(range(32))
    source = copy.deepcopy(model.denoiser)
    examples = randomly_conditioned(model.denoiser, noise(model, 4).noisy)
    key = embed(model, seed, examples=examples, options=QUICK).key
    assert any(not torch.equal(*pair) for pair in zip(source.parameters(), model.denoiser.parameters(), strict=True))
    fine_tune(model, examples, steps=1, learning_rate=1e-4, batch_size=2)
    report = verify(model.denoiser, key, options=VerificationOptions(seed=1, draws=8, decoys=4), subject=Subject("s", "model"))
    assert report.test.bits > 0
    assert report.test.log10_p > -9  # three steps mark nothing


def test_weights_fill_an_empty_denoiser_and_it_predicts_the_same(model):
    """Also buffers that no checkpoint holds, such as position embeddings."""
    empty = build(model.architecture)
    fill(empty, dict(model.denoiser.state_dict()))
    inputs = noise(model)
    assert torch.equal(predict(empty, inputs), predict(model.denoiser, inputs))


def test_inputs_are_noised_examples_or_plain_noise(model):
    channels, height, width = family_of(model.denoiser).shape(model.architecture.config)
    examples = randomly_conditioned(model.denoiser, torch.randn(4, channels, min(height, 32), min(width, 32)))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        inputs = arbitrary_inputs(model, examples, 3, generator)
        assert len(inputs) == 3
        assert set(inputs.conditions) == set(examples.conditions)
        predict(model.denoiser, inputs)


@pytest.mark.parametrize("name", ["class-conditional", "SD 2", "DiT", "SD3"])
def test_a_model_draws_its_own_examples(name):
    model = make(name)
    examples = own_examples(model, QUICK)
    assert examples.clean.shape == (4, *family_of(model.denoiser).shape(model.architecture.config))
    assert examples.clean.isfinite().all()


def test_flux_packs_as_its_pipeline_does():
    model = make("FLUX")
    inputs = noise(model, 2)
    count, channels, height, width = inputs.noisy.shape
    seen = {}
    handle = model.denoiser.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.update(kwargs, packed=args[0]), with_kwargs=True
    )
    ours = predict(model.denoiser, inputs)
    handle.remove()
    assert torch.equal(seen["packed"], FluxPipeline._pack_latents(inputs.noisy, count, channels, height, width))
    ids = FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, torch.device("cpu"), torch.float32)
    assert torch.equal(seen["img_ids"], ids)
    packed = model.denoiser(**{name: value for name, value in seen.items() if name != "packed"}, hidden_states=seen["packed"])[
        0
    ]
    assert torch.equal(ours, FluxPipeline._unpack_latents(packed, height, width, vae_scale_factor=1))


def test_a_class_without_a_family_says_what_one_has_to_provide():
    with pytest.raises(WrongArchitecture, match=r"CogView.*supported: .*FluxTransformer2DModel.*predict.*docs/families\.md"):
        family_named("CogView4Transformer2DModel")


def test_conditions_that_no_family_knows_are_refused():
    config = make("SDXL").architecture.config | {"addition_embed_type": "image"}
    with pytest.raises(WrongArchitecture, match="addition_embed_type 'image'"):
        family_named("UNet2DConditionModel").random_conditions(config, 1, torch.Generator())


def test_the_family_in_the_docs_works_as_it_stands(monkeypatch):
    text = (PROJECT / "docs" / "families.md").read_text("utf-8")
    code = re.search(r"```python\n(.+?)```", text, re.DOTALL)[1]
    assert len(code.splitlines()) < 40
    namespace = {}
    exec(code, namespace)
    monkeypatch.setattr(denoisers, "_families", dict(denoisers._families))
    denoisers.register(namespace["CogView4"])
    model = make_from(
        namespace["CogView4Transformer2DModel"],
        {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "text_embed_dim": 12,
            "time_embed_dim": 16,
            "condition_dim": 8,
            "rope_axes_dim": (32, 32),
        },
        RectifiedFlow(1000),
    )
    key = embed(model, bytes(range(32)), options=QUICK).key
    report = verify(model.denoiser, key, options=VerificationOptions(seed=1, draws=8, decoys=0), subject=Subject("s", "model"))
    assert report.test.bits > 0
