import struct

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats import quantized
from aiao_core.formats.quantized import FP8, dequantize
from tests.support.original_layout import architecture_of, tiny_flux, to_diffusers, to_original


def read_gguf(path):
    return quantized.read_gguf(path, check=lambda outline: None)[0]


WEIGHT = torch.tensor([[0.5, -3.0], [1.25, 16.0], [-0.125, 2.0]])
by_type = pytest.mark.parametrize("dtype", FP8, ids=str)


@by_type
def test_plain_fp8_becomes_float32(dtype):
    bias = torch.ones(3, dtype=torch.bfloat16)
    weights, form = dequantize({"a.weight": WEIGHT.to(dtype), "a.bias": bias, "a.scale": torch.ones(2).to(dtype)})
    assert form == "fp8 weights"
    assert weights["a.weight"].dtype == weights["a.scale"].dtype == torch.float32
    assert torch.equal(weights["a.weight"], WEIGHT)
    assert weights["a.bias"] is bias


@by_type
@pytest.mark.parametrize("name", ["weight_scale", "scale_weight"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3,), (3, 1)])
def test_scales_multiply_by_tensor_or_by_output_channel(dtype, name, shape):
    scale = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.bfloat16).reshape(shape) / 4
    given_weights = {
        "model.diffusion_model.a.weight": WEIGHT.to(dtype),
        f"model.diffusion_model.a.{name}": scale,
        "model.diffusion_model.a.input_scale": torch.tensor(7.0),
        "model.diffusion_model.a.scale_input": torch.tensor(7.0),
        "model.diffusion_model.scaled_fp8": torch.zeros(2).to(dtype),
        "scaled_fp8": torch.zeros(0).to(dtype),
    }
    weights, form = dequantize(given_weights)
    assert form == "fp8 weights with scales"
    assert weights.keys() == {"model.diffusion_model.a.weight"}
    expected = WEIGHT * scale.float().reshape(-1, 1)
    assert torch.equal(weights["model.diffusion_model.a.weight"], expected)


@given(st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4), st.floats(2**-10, 2**10, width=32))
@settings(max_examples=50, deadline=None)
def test_a_scaled_convolution_is_off_by_the_rounding_alone(numbers, factor):
    weight = torch.tensor(numbers).reshape(2, 2, 1, 1) * factor
    scale = weight.abs().amax((1, 2, 3)).clamp(min=1e-6) / 448
    stored = (weight / scale.reshape(-1, 1, 1, 1)).clamp(-448, 448).to(torch.float8_e4m3fn)
    weights, _ = dequantize({"a.weight": stored, "a.scale_weight": scale})
    error = (weights["a.weight"] - weight).abs()
    assert (error <= weight.abs() / 16 + scale.reshape(-1, 1, 1, 1) / 512 * 1.001).all()


def test_other_weights_pass_unchanged():
    given_weights = {"a.weight": WEIGHT, "b.weight": WEIGHT.half(), "c.index": torch.ones(2, dtype=torch.int64)}
    weights, form = dequantize(given_weights)
    assert form is None
    assert weights == given_weights


def test_the_other_parts_of_a_single_file_are_not_expanded():
    encoder = {"text_encoders.t5.a.weight": WEIGHT.to(FP8[0]), "cond_stage_model.a.weight.absmax": torch.ones(2)}
    weights, form = dequantize(encoder | {"model.diffusion_model.a.weight": WEIGHT.to(FP8[0])})
    assert form == "fp8 weights"
    assert weights["text_encoders.t5.a.weight"].dtype == FP8[0]
    assert weights["model.diffusion_model.a.weight"].dtype == torch.float32
    assert dequantize(encoder)[1] is None


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ("a.weight.absmax", "a bitsandbytes 4-bit file .* model's dequantize"),
        ("a.weight.quant_map", "a bitsandbytes 4-bit file"),
        ("a.weight.quant_state.bitsandbytes__nf4", "a bitsandbytes 4-bit file"),
        ("a.weight.quant_state.bitsandbytes__fp4", "a bitsandbytes 4-bit file"),
        ("a.SCB", "a bitsandbytes 8-bit file"),
        ("a.qweight", "a GPTQ, AWQ or Nunchaku file"),
        ("a.W_q", "an HQQ file"),
        ("a.weight._data", "an optimum-quanto file"),
        ("a._weight_qdata", "a torchao file"),
        ("a.weight:qdata", "a torchao file"),
        ("a.weight_scale_2", "an NVFP4 file"),
        ("a.weight_scale_inv", "one scale per block"),
        ("a.pre_quant_scale", "smoothed"),
    ],
)
def test_other_quantizations_are_named_with_what_to_do(tensor, words):
    with pytest.raises(InvalidCheckpoint, match=rf"this is .*{words}.*save it again") as error:
        dequantize({"a.weight": torch.zeros(4, dtype=torch.uint8), tensor: torch.zeros(4, dtype=torch.uint8)})
    assert tensor in str(error.value)


def test_packed_floating_point_is_named():
    with pytest.raises(InvalidCheckpoint, match="packed 4-bit"):
        dequantize({"a.weight": torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)})


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ({"a.weight_scale": torch.ones(2)}, "neither one number nor one for each output channel"),
        ({"a.weight_scale": torch.ones(0)}, "neither one number"),
        ({"a.weight_scale": torch.ones(3, 2)}, "neither one number"),
        ({"a.weight_scale": torch.ones(1, 3)}, "neither one number"),
        ({"a.weight_scale": torch.ones(1, dtype=torch.int32)}, "type torch.int32"),
        ({"a.weight_scale": torch.ones(3).to(FP8[0])}, "type torch.float8_e4m3fn"),
        ({"a.weight_scale": torch.ones(1), "a.scale_weight": torch.ones(1)}, "no scale of exactly one"),
        ({"b.weight_scale": torch.ones(1)}, "b.weight_scale is no scale of exactly one"),
        ({"weight_scale": torch.ones(1)}, "no scale of exactly one"),
        ({"c.weight_scale": torch.ones(1), "c.weight": torch.ones(2)}, "no scale of exactly one"),
        ({"a.weight_scale": torch.ones(1).expand(3)}, "repeat or share"),
        ({"a.weight_scale": torch.eye(3).to_sparse()}, "no plain tensor"),
        ({"a.weight_scale": torch.ones(3, device="meta")}, "no plain tensor"),
    ],
)
def test_scales_that_do_not_fit(scales, words):
    with pytest.raises(InvalidCheckpoint, match=words):
        dequantize({"a.weight": WEIGHT.to(FP8[0])} | scales)


def test_a_number_without_channels_takes_one_scale():
    assert dequantize({"a.weight": torch.tensor(2.0).to(FP8[0]), "a.weight_scale": torch.tensor(3.0)})[0]["a.weight"] == 6
    with pytest.raises(InvalidCheckpoint, match="neither one number"):
        dequantize({"a.weight": torch.tensor(2.0).to(FP8[0]), "a.weight_scale": torch.ones(2)})


def test_an_fp8_tensor_that_only_claims_memory_is_not_expanded():
    with pytest.raises(InvalidCheckpoint, match="repeat or share"):
        dequantize({"a.weight": torch.zeros(1).to(FP8[0]).expand(1 << 40)})


@pytest.mark.parametrize(
    ("marker", "accepted"),
    [
        (b'{"format": "float8_e4m3fn"}', True),
        (b'{"format": "float8_e5m2", "full_precision_matrix_mult": true}', True),
        (b'{"format": "float8_e4m3fn", "convrot": true}', False),
        (b'{"format": "nvfp4"}', False),
        (b'{"format": 8}', False),
        (b'["format"]', False),
        (b"{}", False),
        (b"\xff", False),
        (b"[" * 4000, False),
        (b" " * 5000 + b'{"format": "float8_e4m3fn"}', False),
    ],
)
def test_markers_of_comfyui(marker, accepted):
    weights = {"a.weight": WEIGHT.to(FP8[0]), "a.comfy_quant": torch.frombuffer(bytearray(marker), dtype=torch.uint8)}
    if accepted:
        assert dequantize(weights)[0].keys() == {"a.weight"}
    else:
        with pytest.raises(InvalidCheckpoint, match=r"a\.comfy_quant marks"):
            dequantize(weights)


def test_a_marker_of_comfyui_is_named():
    marker = torch.frombuffer(bytearray(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)
    with pytest.raises(InvalidCheckpoint, match=r"a\.comfy_quant marks int8_tensorwise, a kind of quantized weights"):
        dequantize({"a.weight": torch.ones(2, 2, dtype=torch.int8), "a.comfy_quant": marker})


def test_a_scaled_single_file_goes_on_to_its_conversion():
    denoiser = some_numbers(tiny_flux())
    original = to_original(denoiser)
    fused = "double_blocks.1.txt_attn.qkv.weight"
    scale = torch.arange(1, 49) / 32
    stored = original | {fused: original[fused].to(FP8[0]), fused.replace("weight", "weight_scale"): scale}
    weights, _ = to_diffusers(
        dequantize({f"model.diffusion_model.{name}": stored[name] for name in stored})[0], architecture_of(denoiser)
    )
    expected = original[fused].to(FP8[0]).float() * scale.reshape(-1, 1)
    assert torch.equal(weights["transformer_blocks.1.attn.add_k_proj.weight"], expected[16:32])
    assert torch.equal(weights["transformer_blocks.1.attn.to_k.weight"], denoiser.transformer_blocks[1].attn.to_k.weight)


def some_numbers(denoiser: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for value in denoiser.state_dict().values():
        value.normal_()
    return denoiser.requires_grad_(False)


def write_gguf(path, tensors, fields=()):
    """A GGUF file of ``tensors``, {name: (array, type)}."""
    writer = GGUFWriter(path, "flux")
    for name, values in fields:
        writer.add_array(name, values)
    for name, (value, kind) in tensors.items():
        writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


NUMBERS = np.random.default_rng(0).standard_normal((3, 2, 64)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("F32", 0), ("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 0.02), ("Q5_0", 0.2), ("Q4_0", 0.4), ("Q4_1", 0.3)],
)
def test_gguf_types_against_the_library(tmp_path, kind, tolerance):
    kind = GGMLQuantizationType[kind]
    path = write_gguf(tmp_path / "model.gguf", {"a.weight": (NUMBERS, kind)})
    weights = read_gguf(path)
    path.unlink()
    expected = gguf.quants.dequantize(gguf.quants.quantize(NUMBERS, kind), kind)
    assert weights["a.weight"].dtype == torch.float32
    assert np.array_equal(weights["a.weight"].numpy(), expected)
    assert np.abs(expected - NUMBERS).max() <= tolerance
    weights["a.weight"].mul_(2)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_gguf_types_that_the_library_only_reads(tmp_path, kind):
    kind = GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(0).integers(0, 60, (2, size * 256 // block), np.uint8)
    writer = GGUFWriter(tmp_path / "model.gguf", "flux")
    writer.add_tensor("a.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf(tmp_path / "model.gguf")["a.weight"]
    assert found.shape == (2, 256)
    assert np.array_equal(found.numpy(), gguf.quants.dequantize(data, kind))


def test_gguf_restores_the_noted_shape_of_a_convolution(tmp_path):
    flat = {"a.weight": (NUMBERS.reshape(-1, 128), GGMLQuantizationType.Q8_0)}
    plain = read_gguf(write_gguf(tmp_path / "plain.gguf", flat))["a.weight"]
    noted = read_gguf(write_gguf(tmp_path / "noted.gguf", flat, [("comfy.gguf.orig_shape.a.weight", [32, 4, 3, 1])]))[
        "a.weight"
    ]
    assert torch.equal(noted, plain.reshape(32, 4, 3, 1))
    for shape in ([7], ["32"], [1.5]):
        path = write_gguf(tmp_path / "wrong.gguf", flat, [("comfy.gguf.orig_shape.a.weight", shape)])
        with pytest.raises(InvalidCheckpoint, match="no complete GGUF file"):
            read_gguf(path)


def test_a_gguf_file_goes_on_to_its_conversion(tmp_path):
    denoiser = some_numbers(tiny_flux())
    tensors = {name: (value.numpy(), GGMLQuantizationType.F32) for name, value in to_original(denoiser).items()}
    weights, _ = to_diffusers(read_gguf(write_gguf(tmp_path / "flux.gguf", tensors)), architecture_of(denoiser))
    expected = denoiser.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(tensors: int, fields: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields)


def array(kind: int, length: int) -> bytes:
    return header(0, 1) + text(b"k") + struct.pack("<IIQ", 9, kind, length)


def tensor(name: bytes, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def with_data(head: bytes, size: int = 64) -> bytes:
    return head + b"\0" * (-len(head) % 32 + size)


HOSTILE = {
    "empty": (b"", "empty file"),
    "no GGUF": (b"PK\3\4" + bytes(60), "magic invalid"),
    "magic alone": (b"GGUF", "ends too early"),
    "unknown version": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
    "array of 2^60 numbers": (array(0, 1 << 60), "ends too early"),
    "array of 2^60 texts": (array(8, 1 << 60), "ends too early"),
    "array within arrays": (array(9, 1) + struct.pack("<IQ", 9, 1) * 5000, "recursion"),
    "2^63 fields": (header(0, 1 << 63), "ends too early"),
    "2^63 tensors": (header(1 << 63, 0), "ends too early"),
    "2^32 dimensions": (header(1, 0) + text(b"a") + struct.pack("<I", 0xFFFFFFFF) + bytes(64), "ends too early"),
    "text of 2^63 bytes": (header(0, 1) + struct.pack("<Q", 1 << 63), "ends too early"),
    "tensor beyond the end": (with_data(header(1, 0) + tensor(b"a", [1 << 40])), "ends too early"),
    "size that wraps to 0": (with_data(header(1, 0) + tensor(b"a", [1 << 33, 1 << 31])), "cannot reshape"),
    "size that wraps to 2": (with_data(header(1, 0) + tensor(b"a", [3, 6148914691236517206])), "cannot reshape"),
    "offset that wraps": (with_data(header(1, 0) + tensor(b"a", [4], offset=(1 << 64) - 32)), "overflow"),
    "rows of no whole blocks": (with_data(header(1, 0) + tensor(b"a", [33], kind=2)), "not a multiple"),
    "overlap": (with_data(header(2, 0) + tensor(b"a", [64]) + tensor(b"b", [64]), 256), "overlap"),
    "one name twice": (with_data(header(2, 0) + tensor(b"a", [4]) + tensor(b"a", [4])), "duplicated"),
    "unknown type": (with_data(header(1, 0) + tensor(b"a", [4], kind=99)), "99.* is not a valid"),
    "name in no UTF-8": (with_data(header(1, 0) + tensor(b"\xff", [4])), "utf-8"),
    "integers": (with_data(header(1, 0) + tensor(b"a", [4], kind=24)), "I8 .* save its weights as F16"),
    "big-endian": (
        with_data(b"GGUF" + struct.pack(">IQQQ", 3, 1, 0, 1) + b"a" + struct.pack(">IQIQ", 1, 4, 0, 0)),
        "big-endian; save its weights",
    ),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_lying_gguf_file_costs_nothing(tmp_path, name):
    content, words = HOSTILE[name]
    (tmp_path / "hostile.gguf").write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match=f"hostile.gguf.*{words}"):
        read_gguf(tmp_path / "hostile.gguf")


def test_the_entries_of_a_gguf_file_are_limited(tmp_path, monkeypatch):
    path = tmp_path / "many.gguf"
    path.write_bytes(array(0, 2000) + bytes(2000))
    assert read_gguf(path) == {}
    monkeypatch.setattr(quantized, "MAX_GGUF_READS", 1000)
    with pytest.raises(InvalidCheckpoint, match="more than 1000 entries"):
        read_gguf(path)


def test_a_missing_gguf_file(tmp_path):
    with pytest.raises(InvalidCheckpoint, match="no complete GGUF file"):
        read_gguf(tmp_path / "missing.gguf")


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory):
    tensors = {f"blocks.{kind}.weight": (NUMBERS, GGMLQuantizationType[kind]) for kind in ("F32", "F16", "Q8_0", "Q4_0")}
    path = write_gguf(
        tmp_path_factory.mktemp("gguf") / "small.gguf", tensors, [("comfy.gguf.orig_shape.blocks.F32.weight", [6, 64])]
    )
    return path.read_bytes(), path


@pytest.mark.long
@pytest.mark.timeout(60)
@given(data=st.data())
@settings(max_examples=300, deadline=10_000)
def test_damaged_gguf_files_give_weights_or_a_typed_error(small_gguf, data):
    content, path = small_gguf
    head = len(content) - sum(NUMBERS.size * size // 32 for size in (128, 64, 34, 18))
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(0, 4))):
        position = data.draw(st.integers(0, head - 1))
        if data.draw(st.booleans()):
            damaged[position] = data.draw(st.integers(0, 255))
        else:
            damaged[position : position + 8] = struct.pack(
                "<Q", data.draw(st.sampled_from([0, 1, 2**31, 2**32, 2**63, 2**64 - 1]))
            )
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    path.write_bytes(damaged)
    try:
        weights = read_gguf(path)
    except InvalidCheckpoint:
        return
    assert sum(value.numel() for value in weights.values()) <= 8 * len(content)  # the smallest type has 1.6 bits
    if damaged == content:
        assert len(weights) == 4
