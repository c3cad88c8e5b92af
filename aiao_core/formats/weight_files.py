"""Read files of weights that an attacker may have made. Nothing in them runs.

The content says what a file is. safetensors is read by its own library, by memory map; a pickle by
``torch.load(weights_only=True)`` alone; a configuration is data.
"""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, in_words
from aiao_core.formats.identify import Kind, identify_path
from aiao_core.formats.names import MAX_NAME_CHARACTERS

WEIGHTS = "diffusion_pytorch_model.safetensors"
PLAIN = (WEIGHTS, "model.safetensors")
"""Names of the plain file of a component's weights: by diffusers and by transformers."""

PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
IN_PICKLES = ("state_dict", "model_state_dict", "model", "unet", "ema", "module")
"""Where trainers keep the weights among other things."""

SHARED = 4
"""How many times as many bytes as its file has a pickle's tensors may be: some are tied to others."""

MAX_CONFIG_BYTES = 64 << 10
MAX_INDEX_BYTES = 16 << 20
Weights = dict[str, Tensor]


def read_json(file: Path, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Read a JSON object from a file of a model. Raises :class:`InvalidCheckpoint` if it is missing, too long or another."""
    where = f"{file.parent.name}/{file.name}"
    try:
        if file.stat().st_size > max_bytes:
            raise InvalidCheckpoint(f"{where} has more than {max_bytes} bytes; that is no configuration")
        document = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InvalidCheckpoint(f"{where} is missing; save the pipeline with save_pretrained()") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidCheckpoint(f"{where} is no readable JSON: {in_words(error)}") from error
    if not isinstance(document, dict):
        raise InvalidCheckpoint(f"{where} holds no JSON object")
    return document


def is_weights(name: str) -> bool:
    """Return whether a file of this name may hold weights, or the index of such files."""
    return Path(name).suffix in {".safetensors", ".gguf", *PICKLES} or is_index(name)


def is_index(name: str) -> bool:
    """Return whether a file of this name says which tensors are in which shard."""
    return ".index." in name and name.endswith(".json")


def weights_file(folder: Path) -> Path:
    """Return the file of weights, or the index of the shards, of a component's folder, as ``save_pretrained`` writes it.

    safetensors or pickle, in any variant (``.fp16.``); where several are there, the plain one counts. Raises
    :class:`InvalidCheckpoint` if there is none, or several and none of them is plain.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    indices = sorted((file for file in files if is_index(file.name)), key=lambda file: len(file.name))  # the plain one first
    candidates = [file for file in files if file.suffix == ".safetensors"] or [file for file in files if file.suffix in PICKLES]
    preferred = [file for file in candidates if file.name in PLAIN] or indices[:1] or candidates
    if not preferred:
        raise InvalidCheckpoint(f"the folder {folder.name} holds no weights: no .safetensors, .bin, .pt or .ckpt file")
    if len(preferred) > 1:
        names = ", ".join(file.name for file in preferred)
        raise InvalidCheckpoint(f"the folder {folder.name} holds several checkpoints ({names}); submit one of them")
    return preferred[0]


def read_folder(folder: Path) -> tuple[Weights, str]:
    """Read the weights of a component's folder, and say in words which form that is. Raises :class:`InvalidCheckpoint`."""
    weights, form = read_weights(weights_file(folder))
    return weights, f"{form} folder"


def read_weights(file: Path, kind: Kind | None = None) -> tuple[Weights, str]:
    """Read the tensors of one file by name, or of all shards of an index, and say in words which form that is.

    ``kind`` is the file's, if it was identified already. Raises :class:`InvalidCheckpoint` if the file cannot be read, and for
    tensors without plain numbers in memory.
    """
    if is_index(file.name):
        return _read_shards(file), f"sharded {'safetensors' if '.safetensors' in file.name else 'PyTorch pickle'}"
    match kind or identify_path(file):
        case "pickle":
            return _read_pickle(file), "PyTorch pickle"
        case "safetensors":
            return _read_safetensors(file), "safetensors"
        case "gguf":
            raise InvalidCheckpoint(f"{file.name} is a GGUF file, which cannot be a part of a model; save it as safetensors")
        case _:
            raise InvalidCheckpoint(f"{file.name} is an archive inside the model; unpack it and submit its files")


def shards(index: Path) -> list[str]:
    """Return the names of the shards that an index lists, as it has them. Raises :class:`InvalidCheckpoint`."""
    mapping = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        raise InvalidCheckpoint(f"{index.name} has no weight_map; save the checkpoint again")
    return sorted(set(mapping.values()))


def check_names(names: Iterable[str], file: Path) -> None:
    """Raise :class:`InvalidCheckpoint` for a tensor's name that a message cannot repeat."""
    for name in names:
        if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
            raise InvalidCheckpoint(f"{file.name} holds a tensor of the name {name[:40]!r}…, which no model has; remove it")


def is_floating(value: Tensor) -> bool:
    """Return whether the numbers can become float32; those of packed types cannot."""
    return value.is_floating_point() and value.dtype != torch.float4_e2m1fn_x2


def _read_shards(index: Path) -> Weights:
    weights: Weights = {}
    for name in shards(index):
        if not _is_beside(index, name):
            raise InvalidCheckpoint(
                f"{index.name} names the shard {name[:MAX_NAME_CHARACTERS]!r}, which is not in its folder; upload all shards"
            )
        weights |= read_weights(index.with_name(name))[0]
    return weights


def _is_beside(index: Path, name: str) -> bool:
    """Return whether a name leads to another file of weights in the folder of ``index``, and not elsewhere."""
    try:
        return Path(name).name == name and not is_index(name) and index.with_name(name).is_file()
    except (OSError, ValueError):  # for a name that no file system takes
        return False


def _read_safetensors(file: Path) -> Weights:
    try:
        weights = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidCheckpoint(f"{file.name} is no complete safetensors file ({in_words(error)}); upload it again") from error
    check_names(weights, file)
    return weights


def _unpickled(file: Path) -> Any:
    if file.suffix != ".safetensors":
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    with file.open("rb") as stream:  # given the path, torch would go by the name
        return torch.load(stream, map_location="cpu", weights_only=True)


def _read_pickle(file: Path) -> Weights:
    try:
        content = _unpickled(file)
    except Exception as error:  # a hostile pickle may raise anything, and runs nothing
        raise InvalidCheckpoint(
            f"{file.name} is no pickle of plain weights, and nothing else in it is ever loaded; save the weights as safetensors"
        ) from error
    for _ in range(2):
        for name in IN_PICKLES:
            if isinstance(content, dict) and isinstance(content.get(name), dict):
                content = content[name]
    if not isinstance(content, dict):
        raise InvalidCheckpoint(f"{file.name} holds no dictionary of weights; save the denoiser's state_dict()")
    weights = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not weights:
        raise InvalidCheckpoint(f"{file.name} holds no weights; save the denoiser's state_dict()")
    check_names(weights, file)
    for name, value in weights.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_nested or value.is_quantized:
            raise InvalidCheckpoint(f"{file.name}: {name} is no plain tensor; save the weights as safetensors")
    described, held = sum(value.nbytes for value in weights.values()), file.stat().st_size
    if described > SHARED * held:
        raise InvalidCheckpoint(
            f"{file.name} has {held} bytes and describes {described} bytes of weights, each of them many times; save the "
            "weights as safetensors"
        )
    return {name: value.detach() for name, value in weights.items()}
