"""What a model draws by itself, for an owner who gives no images."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aiao_core.data.latents import encode_images, load_autoencoder
from aiao_core.data.owner_data import draw_examples
from aiao_core.denoisers import family_of, predict
from aiao_core.denoisers.family import select
from aiao_core.denoisers.flux import Flux
from aiao_core.denoisers.scheduler_configs import noise_schedule
from aiao_core.denoisers.schedules import RectifiedFlow
from aiao_core.formats.pipelines import load_model
from aiao_core.method import inputs
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import Examples, draw_noise, noised
from aiao_core.method.inputs import SAMPLING_BATCH, SAMPLING_STEPS, own_samples
from aiao_core.options import EmbeddingOptions
from demo_models.emoji.data import load_images
from demo_models.emoji_text.train import HELD_OUT
from tests.support.families import CONFIGURATIONS, make

TRAINED_FLOW = Path("demo_models/emoji_text/transformer")
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
QUICK = EmbeddingOptions(steps=2, batch_size=2, layers=24, samples=SAMPLING_BATCH + 1)


@pytest.fixture(params=CONFIGURATIONS)
def model(request, monkeypatch):
    """A small untrained model of a family; FLUX at a small size too."""
    monkeypatch.setattr(Flux, "side", 8)
    return make(request.param)


def random_conditions(model, count):
    generator = torch.Generator().manual_seed(1)
    return family_of(model.denoiser).random_conditions(model.architecture.config, count, generator)


def test_every_family_draws_any_number_of_samples_each_batch_as_if_it_were_the_first(model, monkeypatch):
    shape, count = family_of(model.denoiser).shape(model.architecture.config), SAMPLING_BATCH + 1
    conditions = random_conditions(model, count)
    samples = own_samples(model, conditions, count=count, seed=3, steps=3)
    assert samples.shape == (count, *shape)
    assert samples.isfinite().all()
    assert torch.equal(own_samples(model, conditions, count=count, seed=3, steps=3), samples)

    generator = torch.Generator().manual_seed(3)
    _, last_noise = (draw_noise((rows, *shape), generator) for rows in (SAMPLING_BATCH, 1))
    monkeypatch.setattr(inputs, "draw_noise", lambda *_: last_noise)
    alone = own_samples(model, select(conditions, slice(SAMPLING_BATCH, None)), count=1, seed=0, steps=3)
    torch.testing.assert_close(alone, samples[SAMPLING_BATCH:])


def test_every_family_is_registered_without_images(model, tmp_path):
    """As a worker does it, of a folder without text encoders: more samples than one batch, and the embedding on them."""
    (tmp_path / "model_index.json").write_text("{}")
    reports = []
    examples = draw_examples(tmp_path, model, QUICK, reports.append)
    assert len(examples) == QUICK.samples
    assert [(report.step, report.total) for report in reports] == [
        (step + 1, 2 * SAMPLING_STEPS) for step in range(2 * SAMPLING_STEPS)
    ]
    metrics = embed(model, bytes(range(32)), examples=examples, options=QUICK).metrics
    assert torch.tensor(list(metrics.values())).isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        FLOW | {"shift": 3.0, "use_dynamic_shifting": True},
        *(FLOW | {"num_train_timesteps": count} for count in (1, 2, SAMPLING_STEPS - 1, SAMPLING_STEPS + 10)),
        {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 3.0},
        *({"prediction_type": kind} for kind in ("epsilon", "v_prediction", "sample")),
        *({"timestep_spacing": spacing} for spacing in ("leading", "trailing", "linspace")),
        *(
            {"num_train_timesteps": count, "timestep_spacing": spacing, "steps_offset": 1}
            for count in (1, 2, SAMPLING_STEPS - 1, SAMPLING_STEPS, 2 * SAMPLING_STEPS - 1, 3 * SAMPLING_STEPS - 1)
            for spacing in ("leading", "trailing", "linspace")
        ),
        *({"beta_schedule": name} for name in ("scaled_linear", "squaredcos_cap_v2", "sigmoid")),
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": True},
        {"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "zero", "timestep_spacing": "linspace"},
    ],
    ids=lambda config: "-".join(str(value) for value in config.values()),
)
def test_every_schedule_takes_a_model_that_is_right_to_the_clean_images(config, tiny_model, monkeypatch):
    """The prediction of a model that knows the clean image of each row; the images go beyond 1 where none would be clipped."""
    schedule = noise_schedule(config)

    def knowing(_, batch):
        clean, noisy, timesteps = batch.conditions["clean"], batch.noisy, batch.timesteps
        assert timesteps.min() >= 0
        if isinstance(schedule, RectifiedFlow):
            share = timesteps[0] / schedule.num_train_timesteps
            assert 0 < share <= 1
            return (noisy - clean) / share
        signal = schedule.scheduler.alphas_cumprod[timesteps[0]]
        return schedule.target(clean, (noisy - signal.sqrt() * clean) / (1 - signal).sqrt(), timesteps)

    monkeypatch.setattr(inputs, "predict", knowing)
    reach = 3 if config.get("_class_name") else 1
    clean = reach * (2 * torch.rand(SAMPLING_BATCH + 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1)
    reports = []
    samples = own_samples(
        replace(tiny_model, schedule=schedule), {"clean": clean}, count=len(clean), seed=0, progress=reports.append
    )
    torch.testing.assert_close(samples, clean, atol=2e-4, rtol=2e-4)
    assert [report.step for report in reports] == list(range(1, reports[-1].total + 1))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_sampler_begins_with_nearly_pure_noise_however_few_the_training_timesteps(spacing):
    """Noise shown to a model as a half-finished image comes out as nothing that the model was trained on."""
    for count in range(1, 6 * SAMPLING_STEPS):
        config = {"num_train_timesteps": count, "timestep_spacing": spacing, "steps_offset": 1}
        timesteps = noise_schedule(config).sampler(SAMPLING_STEPS).timesteps.tolist()
        assert timesteps == sorted(set(timesteps), reverse=True)
        assert min(SAMPLING_STEPS, count) <= len(timesteps) < 2 * SAMPLING_STEPS
        assert 0.8 * (count - 1) <= timesteps[0] < count
        assert timesteps[-1] >= 0


@pytest.mark.slow
def test_a_trained_flow_draws_what_it_learned(monkeypatch):
    """Its loss on its own samples is that on real images, in every batch: higher on unfinished ones, lower on blurred ones."""
    monkeypatch.setattr(inputs, "SAMPLING_BATCH", 32)
    model = load_model(TRAINED_FLOW)
    drawn = draw_examples(TRAINED_FLOW, model, EmbeddingOptions(samples=64))
    real = encode_images(load_autoencoder(TRAINED_FLOW), load_images(without=HELD_OUT, size=32)[::10])

    def loss(clean):
        generator = torch.Generator().manual_seed(0)
        conditions = {name: value[:1].expand(8 * len(clean), *value.shape[1:]) for name, value in drawn.conditions.items()}
        batch, target = noised(model.schedule, Examples(clean.repeat(8, 1, 1, 1), conditions), generator)
        with torch.no_grad():
            return float((predict(model.denoiser, batch) - target).square().mean())

    expected = loss(real)
    for batch in drawn.clean.split(32):
        assert loss(batch) == pytest.approx(expected, rel=0.25)
        assert float(batch.std()) == pytest.approx(float(real.std()), rel=0.25)
