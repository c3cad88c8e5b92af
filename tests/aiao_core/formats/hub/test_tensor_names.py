"""The names of the tensors at the beginning of a file that an attacker may have made."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.formats.hub.tensor_names import MAX_HEADER_BYTES, are_companion, read_tensor_names


def header(document: object) -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text


def test_no_more_is_taken_than_the_header():
    taken = []

    def chunks():
        for chunk in (b"", header({"a": {}, "__metadata__": {}})[:5], header({"a": {}, "__metadata__": {}})[5:], b"weights"):
            taken.append(chunk)
            yield chunk

    assert read_tensor_names(chunks()) == ["a"]
    assert len(taken) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0", header({})[:-1], header([]), header(b"{"), header(b"[" * 100_000), header(b"\xff"), header(b"1" * 10_000),
        header({"a" * 300: {}}), header({str(n): 0 for n in range(10_001)}), b"\xff" * 16, b"version https://git-lfs",
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b" " * (MAX_HEADER_BYTES + 1),
    ],
)  # fmt: skip
def test_what_is_not_a_header_has_no_names(content):
    assert read_tensor_names([content]) is None


def test_an_endless_file_is_left_at_once():
    def endless():
        yield b"\xff" * 8
        pytest.fail("more was taken")

    assert read_tensor_names(endless()) is None


@given(st.lists(st.binary(max_size=64)))
def test_any_bytes_have_names_or_none(chunks):
    names = read_tensor_names(chunks)
    assert names is None or all(isinstance(name, str) for name in names)


@pytest.mark.parametrize(
    ("tensors", "companion"),
    [
        (["decoder.conv_in.weight", "encoder.conv_in.weight"], True),
        (["first_stage_model.decoder.conv_in.weight"], True),
        (["vae.decoder.conv_in.weight"], True),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], True),
        (["shared.weight", "encoder.block.0.layer.0.DenseReluDense.wo.weight"], True),
        (["model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"], True),
        (["lm_head.weight", "model.norm.weight"], True),
        (["clip_l", "clip_g"], True),
        (["emb_params"], True),
        (["<s1>", "<s2>"], True),
        (["lora_te1_text_model_encoder_layers_0.lora_down.weight"], True),
        ([], True),
        (["lora_te1_x.lora_down.weight", "lora_unet_x.lora_down.weight"], False),
        (["clip_l", "unet.x.lora_A.weight"], False),
        (["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x", "first_stage_model.decoder.x"], False),
        (["model_ema.diffusion_modelinput_blocks00weight", "first_stage_model.decoder.x"], False),
        (["double_blocks.0.img_mod.lin.weight"], False),
        (["model.diffusion_model.double_blocks.0.x", "text_encoders.t5xxl.x", "vae.decoder.x"], False),
        (["joint_blocks.0.x_block.attn.qkv.weight"], False),
        (["down_blocks.0.resnets.0.conv1.weight", "mid_block.x"], False),
        (["layers.0.attention.qkv.weight"], False),
    ],
)
def test_what_lies_beside_a_denoiser(tensors, companion):
    assert are_companion(tensors) == companion
