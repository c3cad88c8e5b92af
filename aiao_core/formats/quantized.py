"""Expand weights that were stored in fewer bits to float32: fp8 with its scales, and GGUF files.

Other formats are refused by name, with what their publisher can do instead.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType, ReaderTensor, quants
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, in_words, printable
from aiao_core.formats.names import COMPANION_PREFIXES, check_names
from aiao_core.formats.weight_files import Weights, shard_of_several

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
SCALE_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
WEIGHT_SCALES = ("weight_scale", "scale_weight")
UNUSED = ("input_scale", "scale_input", "scaled_fp8", "comfy_quant")
"""For activations, or markers: they change no weight."""

_BITSANDBYTES = "load it with diffusers where bitsandbytes is installed, call the model's dequantize() and save it again"
_ITS_LIBRARY = "dequantize it with the library that wrote it and save it again in float16"
REFUSED: dict[str | torch.dtype, tuple[str, str]] = {
    "absmax": ("a bitsandbytes 4-bit file", _BITSANDBYTES),
    "quant_map": ("a bitsandbytes 4-bit file", _BITSANDBYTES),
    "bitsandbytes__nf4": ("a bitsandbytes 4-bit file", _BITSANDBYTES),
    "bitsandbytes__fp4": ("a bitsandbytes 4-bit file", _BITSANDBYTES),
    "SCB": ("a bitsandbytes 8-bit file", _BITSANDBYTES),
    "qweight": ("a GPTQ, AWQ or Nunchaku file", _ITS_LIBRARY),
    "W_q": ("an HQQ file", _ITS_LIBRARY),
    "_data": ("an optimum-quanto file", _ITS_LIBRARY),
    "_weight_qdata": ("a torchao file", _ITS_LIBRARY),
    "weight:qdata": ("a torchao file", _ITS_LIBRARY),
    "weight_scale_2": ("an NVFP4 file", _ITS_LIBRARY),
    "weight_scale_inv": ("a file of fp8 weights with one scale per block", _ITS_LIBRARY),
    "pre_quant_scale": ("a file of smoothed quantized weights", _ITS_LIBRARY),
    torch.float4_e2m1fn_x2: ("a file of packed 4-bit floating-point weights", _ITS_LIBRARY),
}
"""The last part of a tensor's name, or its type: what writes such a tensor, and how to expand its weights."""

MAX_GGUF_READS = 100_000
MAX_MARKER_BYTES = 4096

Checked = TypeVar("Checked")


def dequantize(weights: Weights) -> tuple[Weights, str | None]:
    """Return the weights with every fp8 tensor in float32, times its scale, and the form in words, None if there are none.

    A scale is one number or one for each output channel. All other tensors pass unchanged. Raises
    :class:`InvalidCheckpoint` for another kind of quantization and for scales that fit no weight.
    """
    names = [name for name in weights if not name.startswith(COMPANION_PREFIXES)]  # nobody uses those: not expanded
    for name in names:
        if refused := REFUSED.get(_last(name)) or REFUSED.get(weights[name].dtype):
            raise InvalidCheckpoint(f"this is {refused[0]} ({name}); {refused[1]}")
        if _last(name) == "comfy_quant":
            _check_marker(name, weights[name])
    scales = _scales(weights, names)
    stored = [name for name in names if weights[name].dtype in FP8 and _last(name) not in UNUSED]
    check_plain({name: weights[name] for name in [*stored, *scales.values()]})
    gone = {name for name in names if _last(name) in UNUSED}.union(scales.values())
    result = {name: value for name, value in weights.items() if name not in gone}
    for name in stored:
        result[name] = weights[name].float()
        if name in scales:
            result[name] *= _per_channel(scales[name], weights[scales[name]], weights[name])
    if not stored:
        return result, None
    return result, "fp8 weights with scales" if scales else "fp8 weights"


def check_plain(weights: Weights) -> None:
    """Raise :class:`InvalidCheckpoint` unless each tensor owns the memory it claims.

    A pickle of a few bytes can describe a tensor that repeats one number 10¹² times. Ask here before copying
    tensors whose shape has not been checked against the architecture.
    """
    owned: dict[int, int] = {}
    claimed = 0
    for name, value in weights.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_nested:
            raise InvalidCheckpoint(f"{name} is no plain tensor; save the weights as safetensors")
        storage = value.untyped_storage()
        owned[storage.data_ptr()] = storage.nbytes()
        claimed += value.nbytes
    if claimed > sum(owned.values()):
        raise InvalidCheckpoint(
            f"the tensors of this file, such as {next(iter(weights))}, repeat or share their numbers; "
            "save the weights as safetensors"
        )


def read_gguf(path: Path, check: Callable[[Weights], Checked]) -> tuple[Weights, Checked]:
    """Read the tensors of a GGUF file in float32, by the names in the file. Raises :class:`InvalidCheckpoint`.

    The file is mapped, and memory is taken only for tensors that lie in it, without overlap. They may take many times the
    memory of the file: ``check`` sees their names and shapes before, as tensors without numbers, and raises to prevent it. What
    it returns is returned.
    """
    if match := shard_of_several(path.name):
        raise InvalidCheckpoint(
            f"{path.name} is one of {match['count']} parts of a GGUF file; join them with llama-gguf-split --merge"
        )
    try:
        with np.errstate(over="raise", invalid="ignore"):  # an offset that wraps round is an error; NaN is found later
            reader = _Reader(path)
            if sum(tensor.n_bytes for tensor in reader.tensors) > path.stat().st_size:
                raise ValueError("its tensors overlap")
            check_names([tensor.name for tensor in reader.tensors], path.name)
            found = check({tensor.name: torch.empty(tensor.shape[::-1].tolist(), device="meta") for tensor in reader.tensors})
            return {tensor.name: _read_tensor(reader, tensor) for tensor in reader.tensors}, found
    except InvalidCheckpoint:
        raise
    except NotImplementedError as error:
        raise InvalidCheckpoint(f"{path.name}: {in_words(error)}; save its weights as F16, BF16 or Q8_0") from error
    except Exception as error:  # a hostile file may make the library raise anything
        raise InvalidCheckpoint(
            f"{path.name} is no complete GGUF file ({in_words(error)}); upload it again, or save it as safetensors"
        ) from error


class _Reader(GGUFReader):
    """The library's reader within bounds: alone, it loops without end and takes all memory for an array of false length."""

    _reads = 0

    def _get(
        self, offset: int, dtype: DTypeLike, count: int = 1, override_order: Literal["I", "S", "<"] | None = None
    ) -> NDArray[Any]:
        self._reads += 1
        if self._reads > MAX_GGUF_READS:
            raise ValueError(f"it has more than {MAX_GGUF_READS} entries")
        if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError("it ends too early")
        return super()._get(offset, dtype, count, override_order)


def _read_tensor(reader: _Reader, tensor: ReaderTensor) -> Tensor:
    if reader.byte_order != "I":
        raise NotImplementedError("it is big-endian")
    # A copy, because the tensors must outlive the mapped file.
    value = torch.from_numpy(np.array(quants.dequantize(tensor.data, tensor.tensor_type), np.float32))
    # ComfyUI's converter flattens convolutions whose rows are not whole blocks, and notes their shape.
    shape = reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}")
    if shape is None:
        return value
    if shape.types != [GGUFValueType.ARRAY, GGUFValueType.INT32]:
        raise ValueError(f"the noted shape of {tensor.name} is no list of integers")
    return value.reshape(shape.contents())


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _scales(weights: Weights, names: list[str]) -> dict[str, str]:
    """Return the name of the scale of each fp8 weight that has one."""
    scales: dict[str, str] = {}
    for scale in names:
        if _last(scale) in WEIGHT_SCALES:
            name = scale.removesuffix(_last(scale)) + "weight"
            if name not in weights or weights[name].dtype not in FP8 or name in scales:
                raise InvalidCheckpoint(f"{scale} is no scale of exactly one fp8 weight; {_ITS_LIBRARY}")
            scales[name] = scale
    return scales


def _per_channel(name: str, scale: Tensor, weight: Tensor) -> Tensor:
    """Return the scale, shaped so that it multiplies ``weight``, (C, ...), by channel."""
    if scale.dtype not in SCALE_TYPES:
        raise InvalidCheckpoint(f"{name} is of type {scale.dtype}, but a scale is a floating-point number; {_ITS_LIBRARY}")
    if scale.numel() == 1:
        return scale.float().reshape(())
    if scale.shape[0] != scale.numel() or weight.ndim == 0 or scale.numel() != weight.shape[0]:
        raise InvalidCheckpoint(
            f"{name} has the shape {tuple(scale.shape)}, which is neither one number nor one for each output channel of a "
            f"weight of shape {tuple(weight.shape)}; {_ITS_LIBRARY}"
        )
    return scale.float().reshape(-1, *[1] * (weight.ndim - 1))


def _check_marker(name: str, marker: Tensor) -> None:
    """Refuse what ComfyUI's marker, which is JSON, describes besides fp8: packed integers and rotated weights."""
    plain, stated = False, "a kind"
    if marker.dtype == torch.uint8 and marker.numel() <= MAX_MARKER_BYTES:
        check_plain({name: marker})
        try:
            described = json.loads(bytes(marker.flatten().tolist()))
            stated = f"{printable(str(described['format'])[:40])}, a kind"
            plain = described["format"].startswith("float8_") and described.keys() <= {"format", "full_precision_matrix_mult"}
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            pass
    if not plain:
        raise InvalidCheckpoint(f"{name} marks {stated} of quantized weights that is not supported; {_ITS_LIBRARY}")
