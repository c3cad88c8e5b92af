"""The claim of the paper in small, on the trained text-to-image models: a UNet and a rectified-flow transformer."""

import copy
from dataclasses import replace

import pytest
from peft import LoraConfig

from aiao_core.data.captions import encode_captions
from aiao_core.data.latents import encode_images, load_autoencoder
from aiao_core.formats.pipelines import load_model
from aiao_core.formats.suspects import load_suspect
from aiao_core.method.embedding import embed
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.options import EmbeddingOptions
from aiao_core.verification.verify import Subject, verify
from demo_models.emoji.data import THIEF_CATEGORY, load_images
from demo_models.emoji_text.parts import captions
from demo_models.emoji_text.train import HELD_OUT
from tests.support.places import PROJECT

MODELS = PROJECT / "demo_models" / "emoji_text"
SHORT = EmbeddingOptions(steps=80, batch_size=12, layers=24, lazy_fraction=0.5, probe_steps=10)


def examples_of(folder, model, **chosen):
    clean = encode_images(load_autoencoder(folder), load_images(size=32, **chosen)[:128])
    return Examples(clean, encode_captions(folder, model, captions(**chosen)[:128]))


def judged(denoiser, key, source):
    return verify(denoiser, key, subject=Subject("suspect", "model"), source=source, registration="service")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "transformer"])
def test_a_short_embedding_is_found_after_fine_tuning_and_in_a_lora(name, tmp_path):
    folder = MODELS / name
    model = load_model(folder)
    source = copy.deepcopy(model.denoiser)
    key = embed(model, bytes(range(32)), examples=examples_of(folder, model, without=HELD_OUT), options=SHORT).key
    animals = examples_of(folder, model, only=(THIEF_CATEGORY,))

    tuned = copy.deepcopy(model.denoiser)
    fine_tune(replace(model, denoiser=tuned), animals, steps=20, learning_rate=2e-4, batch_size=16)
    adapted = copy.deepcopy(model.denoiser)
    adapted.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
    lora = [parameter for where, parameter in adapted.named_parameters() if "lora" in where]
    fine_tune(replace(model, denoiser=adapted), animals, steps=20, learning_rate=1e-3, batch_size=16, parameters=lora)
    adapted.save_lora_adapter(tmp_path)
    suspect = load_suspect(
        next(tmp_path.glob("*.safetensors")), model.architecture, lambda: (dict(model.denoiser.state_dict()), "published")
    )
    assert "LoRA of rank 4" in suspect.form

    for marked in (model.denoiser, tuned, suspect.denoiser):
        report = judged(marked, key, source)
        assert report.verdict == "match"
        assert report.test.log10_p < -20
        assert max(decoy.log10_p for decoy in report.decoys) > -9
    assert judged(source, key, source).verdict == "no-match"
