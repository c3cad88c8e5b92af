"""An owner's images and captions as the pipeline itself reads them."""

import json
import weakref

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from aiao_core.data.captions import encode_captions, load_text
from aiao_core.data.images import ImageSet, open_images
from aiao_core.data.latents import BATCH, downsampling, encode_images, load_autoencoder
from aiao_core.data.owner_data import draw_examples, load_examples
from aiao_core.errors import InvalidCheckpoint, InvalidImages, UnsafeArchive, WrongArchitecture
from aiao_core.formats.archives import Limits
from aiao_core.formats.pipelines import load_model, save_model
from aiao_core.method.embedding import embed
from aiao_core.options import EmbeddingOptions
from demo_models.emoji.data import MODEL
from tests.support import pipelines
from tests.support.families import CONDITIONED

CAPTIONS = ["a cat", "a dog", "a dog on a mat"]
QUICK = EmbeddingOptions(steps=2, batch_size=2, samples=3, layers=24)


@pytest.fixture(params=["SD", "SDXL", "SD3", "FLUX", "PixArt", "DiT"])
def family(request):
    return request.param


@pytest.fixture
def folder(family, tmp_path):
    return pipelines.save(family, tmp_path / "model")


@pytest.fixture
def image_set(family, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 20, 20, 3), dtype=np.uint8)
    captions = ["house cat", "dog", "2"] if family == "DiT" else CAPTIONS
    np.savez(tmp_path / "set.npz", x=pixels, text=np.array(captions))
    return tmp_path / "set.npz"


def load_pipeline(family, folder):
    return DiffusionPipeline.from_pretrained(folder, **(pipelines.WITHOUT_T5 if family == "SD3" else {}))


@pytest.mark.parametrize("family", ["SD", "SDXL", "SD3", "FLUX", "Chroma", "PixArt"])
def test_captions_become_what_the_pipeline_itself_makes_of_them(family, folder):
    pipeline = load_pipeline(family, folder)
    found = encode_captions(folder, load_model(folder), CAPTIONS)
    arguments = {
        "SD": (CAPTIONS, "cpu", 1, False),
        "SDXL": (CAPTIONS, None, None, 1, False),
        "SD3": (CAPTIONS, None, None, None, 1, False, *[None] * 8, 1),
        "FLUX": (CAPTIONS, None, None, 1, None, None, 128),
        "Chroma": (CAPTIONS, None, None, 1, *[None] * 4, False, 128),
        "PixArt": (CAPTIONS, False),
    }[family]
    with torch.no_grad():
        embeddings, second, *others = pipeline.encode_prompt(*arguments)
    torch.testing.assert_close(found["encoder_hidden_states"], embeddings)
    match family:
        case "SDXL":
            torch.testing.assert_close(found["text_embeds"], others[0])
            assert found["time_ids"].tolist() == [[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 3
        case "SD3":
            torch.testing.assert_close(found["pooled_projections"], others[0])
        case "FLUX":
            torch.testing.assert_close(found["pooled_projections"], second)
        case "Chroma":
            torch.testing.assert_close(found["encoder_attention_mask"], others[0])
            assert not others[0].all()
        case "PixArt":
            torch.testing.assert_close(found["encoder_attention_mask"], second)


@pytest.mark.parametrize("family", ["SD", "SDXL", "SD3", "FLUX", "Chroma", "PixArt"])
def test_captions_are_read_where_their_encoder_is_wherever_the_denoiser_is(family, folder, monkeypatch):
    """A worker with a GPU has the denoiser there. Without one, a denoiser that says so: whoever followed it would fail."""
    model = load_model(folder)
    monkeypatch.setattr(type(model.denoiser), "device", torch.device("cuda"))
    assert encode_captions(folder, model, CAPTIONS)["encoder_hidden_states"].device.type == "cpu"


@pytest.mark.parametrize("family", ["DiT"])
def test_classes_are_named_by_their_labels_or_numbers(folder):
    model = load_model(folder)
    assert encode_captions(folder, model, ["house cat", "dog", "2"])["class_labels"].tolist() == [0, 1, 2]
    for unknown in ("a cat on a mat", "3", "-1"):
        with pytest.raises(InvalidImages, match="is not a class"):
            encode_captions(folder, model, ["dog", unknown])


def test_images_become_the_latents_of_the_pipelines_autoencoder(family, folder, image_set):
    model = load_model(folder)
    examples = load_examples(folder, model, image_set)
    autoencoder = load_autoencoder(folder)
    assert downsampling(autoencoder) == 2
    side = 128 if family == "FLUX" else 8
    assert examples.clean.shape == (3, 4, side, side)
    assert {len(value) for value in examples.conditions.values()} == {3}
    if family != "FLUX":
        theirs = load_pipeline(family, folder).vae
        with open_images(image_set, size=16, channels=3) as images:
            pixels = torch.stack(list(images))
        with torch.no_grad():
            expected = (theirs.encode(pixels).latent_dist.mode() - 0.1) * 0.7
        torch.testing.assert_close(examples.clean, expected)


@pytest.mark.parametrize("family", ["SD"])
def test_images_are_encoded_as_they_come_and_as_they_were_together(folder):
    autoencoder, pixels = load_autoencoder(folder), torch.rand(2 * BATCH + 5, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        parts = [autoencoder.encode(part).latent_dist.mode() for part in torch.split(pixels, BATCH)]
    expected = (torch.cat(parts) - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor
    alive, most = weakref.WeakSet(), 0

    def read():
        nonlocal most
        for image in pixels:
            alive.add(own := image.clone())
            most = max(most, len(alive))
            yield own

    assert torch.equal(encode_images(autoencoder, ImageSet(len(pixels), 0, None, read)), expected)
    assert torch.equal(encode_images(autoencoder, pixels), expected)
    assert most <= BATCH + 1


def test_a_model_of_pixels_takes_them_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x=pixels)
    clean = load_examples(MODEL, load_model(MODEL), tmp_path / "set.npz").clean
    assert torch.equal(clean, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)


@pytest.mark.parametrize("family", ["SD"])
def test_an_image_set_keeps_to_the_limits_that_the_operator_sets(folder, image_set):
    with pytest.raises(UnsafeArchive, match="expands beyond 1000 bytes"):
        load_examples(folder, load_model(folder), image_set, Limits(total_bytes=1000))


@pytest.mark.parametrize("family", ["SD", "SD3", "DiT"])
def test_a_marked_pipeline_is_loaded_unchanged_and_draws(family, folder, image_set, tmp_path):
    model = load_model(folder)
    embed(model, bytes(range(32)), examples=load_examples(folder, model, image_set), options=QUICK)
    save_model(model.denoiser, folder, tmp_path / "marked")
    pipeline = load_pipeline(family, tmp_path / "marked")
    for name, value in (pipeline.transformer if family != "SD" else pipeline.unet).state_dict().items():
        assert torch.equal(value, model.denoiser.state_dict()[name])
    pipeline.set_progress_bar_config(disable=True)
    prompt = {"class_labels": [1], "guidance_scale": 1.0} if family == "DiT" else {"prompt": "a cat", "height": 16, "width": 16}
    assert pipeline(**prompt, num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("family", ["SD", "DiT"])
def test_without_images_the_model_draws_under_an_empty_caption_or_random_classes(family, folder):
    examples = draw_examples(folder, load_model(folder), QUICK)
    assert examples.clean.shape == (3, 4, 8, 8)
    if family == "SD":
        empty = encode_captions(folder, load_model(folder), [""])["encoder_hidden_states"]
        torch.testing.assert_close(examples.conditions["encoder_hidden_states"], empty.expand(3, *empty.shape[1:]))


@pytest.mark.parametrize("family", ["SD"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertModel"]}, "BertModel; captions are read with CLIPTextModel"),
        ({"architectures": None}, "None; captions are read with"),
        ({"architectures": 5}, "None; captions are read with"),
        ({"architectures": [["CLIPTextModel"]]}, "captions are read with"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be between"),
        ({"vocab_size": 10**12}, "describes more weights than its files hold"),
        ({"hidden_size": "wide"}, "cannot be read"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings must be between"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings must be between"),
    ],
)
def test_a_text_encoder_that_no_author_would_write_is_refused(folder, changes, message):
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(InvalidCheckpoint, match=message):
        load_text(folder)


@pytest.mark.parametrize("family", ["SD"])
def test_adapters_beside_a_text_encoder_have_no_say(folder):
    """PEFT would match the layers' names with the pattern for longer than anybody waits."""
    expected = encode_captions(folder, load_model(folder), CAPTIONS)
    hostile = {"peft_type": "LORA", "target_modules": "(a|a)*" * 40 + "b", "auto_mapping": None, "task_type": None}
    (folder / "text_encoder" / "adapter_config.json").write_text(json.dumps(hostile))
    found = encode_captions(folder, load_model(folder), CAPTIONS)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", ["SD"])
def test_a_tokenizer_asks_for_no_more_tokens_than_its_encoder_takes(folder):
    config = folder / "tokenizer" / "tokenizer_config.json"
    expected = load_text(folder)["tokenizer"].model_max_length
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 10**9}))
    assert load_text(folder)["tokenizer"].model_max_length == expected


@pytest.mark.parametrize("family", ["SD"])
def test_captions_without_a_text_encoder_are_refused(folder):
    (folder / "text_encoder").rename(folder / "elsewhere")
    with pytest.raises(InvalidImages, match="has no text_encoder"):
        encode_captions(folder, load_model(folder), CAPTIONS)


@pytest.mark.parametrize("family", ["SD"])
def test_another_autoencoder_is_refused(folder):
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "AutoencoderDC"}))
    with pytest.raises(InvalidCheckpoint, match="vae is a AutoencoderDC"):
        load_autoencoder(folder)


@pytest.mark.parametrize("family", ["SD", "SD3"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": ["UNet2DConditionModel"]}, "supported: "),
        ({"layers_per_block": [[[1]]], "num_layers": [[[1]]]}, "must be between 0 and 256"),
        ({"layers_per_block": 200, "transformer_layers_per_block": 200, "num_layers": 200}, "layers multiply to"),
    ],
)
def test_a_configuration_that_no_author_would_write_is_refused(folder, changes, message):
    config = folder / ("unet" if (folder / "unet").is_dir() else "transformer") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(InvalidCheckpoint, match=message):
        load_model(folder)


@pytest.mark.parametrize("family", ["SD"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 9}, "takes 9 channels and predicts 4, as models for inpainting do"),
        ({"class_embed_type": "timestep"}, "of this configuration cannot be run"),
    ],
)
def test_a_model_that_its_adapter_cannot_run_is_refused_at_once(folder, options, message):
    UNet2DConditionModel(**CONDITIONED | options).save_pretrained(folder / "unet")
    with pytest.raises(WrongArchitecture, match=message):
        load_model(folder)
