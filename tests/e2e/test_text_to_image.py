"""A text-to-image model from registration with captions to a suspect in another form, through a real worker."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from aiao_core.formats.archives import unpack
from aiao_core.formats.pipelines import load_model
from aiao_core.reports.verification import Report
from demo_models.emoji_text.parts import captions
from tests.aiao_core.method.test_text_models import MODELS
from tests.support.original_layout import to_original

OPTIONS = {"steps": 60, "batch_size": 4, "learning_rate": 3e-3, "layers": 24, "lazy_fraction": 0.5, "probe_steps": 5}


@pytest.fixture(scope="module")
def published(owner, tmp_path_factory):
    """The model's identifier and its watermarked pipeline folder."""
    folder = tmp_path_factory.mktemp("text")
    pixels = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "set.npz", x=pixels, text=np.array(captions()[:8]))
    registration = owner.models.register(MODELS / "unet", name="text", images=folder / "set.npz", options=OPTIONS)
    owner.jobs.wait(registration)
    marked = owner.models.download(registration.model.id, folder / "marked.zip")
    return registration.model.id, unpack(marked, folder / "marked")


def judged(owner, model_id, suspect) -> Report:
    submission = owner.verifications.create(model_id, suspect)
    owner.jobs.wait(submission)
    return Report.from_json(owner.verifications.report(submission.verification.id))


@pytest.mark.slow
def test_the_published_pipeline_draws_what_its_caption_says(published):
    pipeline = DiffusionPipeline.from_pretrained(published[1], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("smileys & emotion: grinning face", height=32, width=32, num_inference_steps=4, output_type="np").images
    assert image.shape == (1, 32, 32, 3)


@pytest.mark.slow
def test_it_is_recognised_as_a_single_file_in_the_original_layout_and_its_source_is_not(owner, published, tmp_path):
    model_id, folder = published
    weights = {f"model.diffusion_model.{name}": value for name, value in to_original(load_model(folder).denoiser).items()}
    save_file({name: value.half().contiguous() for name, value in weights.items()}, tmp_path / "suspect.safetensors")
    report = judged(owner, model_id, tmp_path / "suspect.safetensors")
    assert report.verdict == "match"
    assert report.suspect_form == "safetensors, single file in the original Stable Diffusion layout"
    assert judged(owner, model_id, MODELS / "unet").verdict == "no-match"
