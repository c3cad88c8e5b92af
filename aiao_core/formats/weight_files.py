"""Read files of weights that an attacker may have made. Nothing in them runs.

The content says what a file is. safetensors is read by its own library, by memory map; a pickle as data, see
:mod:`aiao_core.formats.pickles`; a configuration is data.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, in_words
from aiao_core.formats import foreign
from aiao_core.formats.folders import files_in
from aiao_core.formats.identify import Kind, identify_path
from aiao_core.formats.names import MARKERS, MAX_NAME_CHARACTERS, check_names, unwrapped, without_averages
from aiao_core.formats.pickled_weights import read_pickle
from aiao_core.formats.safetensors_files import read_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
PLAIN = (WEIGHTS, "model.safetensors")
"""Names of the plain file of a component's weights: by diffusers and by transformers."""

SAFETENSORS = {".safetensors", ".sft"}
PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
"""The ends of names of files of weights. They say where to look; what a file is, its content says."""

SHARD = re.compile(r"(?P<before>.*)-(?P<number>\d{1,6})-of-(?P<count>\d{1,6})(?P<after>\..+)")
"""The name of one of several files of a checkpoint, with its number and how many there are."""

WEIGHTS_KINDS = ("safetensors", "gguf", "pickle")

MAX_SHARDS = 1000

MAX_LOOKED_AT = 1000
"""Most files of a folder that are looked into to find weights."""

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
    return Path(name).suffix.lower() in {".gguf", *SAFETENSORS, *PICKLES} or is_index(name)


def is_index(name: str) -> bool:
    """Return whether a file of this name says which tensors are in which shard."""
    return ".index." in name and name.endswith(".json")


def shard_of_several(name: str) -> re.Match[str] | None:
    """Return the parts of the name of a file if it is one of several shards of a checkpoint."""
    match = SHARD.fullmatch(name)
    return match if match and int(match["count"]) > 1 else None


def check_whole(file: Path) -> None:
    """Raise :class:`InvalidCheckpoint` for one of several shards: a report would have the digest of this file alone."""
    if match := shard_of_several(file.name):
        raise InvalidCheckpoint(f"{file.name} is one of {match['count']} shards; submit the folder of all of them, or pack it")


def weights_among(files: Iterable[Path]) -> list[Path]:
    """Return the files of weights, each checkpoint once: of shards the index, or the first one if there is no index."""
    found = sorted(file for file in files if is_weights(file.name) and file.is_file())
    in_shards = {index.parent / name for index in found if is_index(index.name) for name in shards(index)}
    firsts: dict[tuple[Path, str], Path] = {}
    for file in found:
        if file not in in_shards and (match := shard_of_several(file.name)):
            in_shards.add(file)
            firsts.setdefault((file.parent, f"{match['before']} {match['count']}{match['after']}"), file)
    return [file for file in found if file not in in_shards or file in firsts.values()]


def weights_by_content(files: Iterable[Path]) -> list[Path]:
    """Return the files of weights among files whose names say nothing."""
    found = []
    for _, file in zip(range(MAX_LOOKED_AT), files, strict=False):
        with suppress(InvalidCheckpoint):
            if not file.name.startswith(".") and not foreign.is_named(file) and identify_path(file) in WEIGHTS_KINDS:
                found.append(file)
    return found


def weights_file(folder: Path) -> Path:
    """Return the file of weights, or the index of the shards, of a component's folder, as ``save_pretrained`` writes it.

    safetensors or pickle, in any variant (``.fp16.``); where several are there, the plain one counts. Raises
    :class:`InvalidCheckpoint` if there is none, or several and none of them is plain.
    """
    inside = [file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file()]
    preferred = [file for file in inside if file.name in PLAIN]
    files = [] if preferred else weights_among(inside)
    indices = sorted((file for file in files if is_index(file.name)), key=lambda file: len(file.name))  # the plain one first
    candidates = [file for file in files if file.suffix.lower() in SAFETENSORS]
    candidates = candidates or [file for file in files if file.suffix.lower() in PICKLES]
    preferred = sorted(preferred) or indices[:1] or candidates
    if not preferred:
        raise no_weights(folder)
    if len(preferred) > 1:
        names = ", ".join(file.name for file in preferred)
        raise InvalidCheckpoint(f"the folder {folder.name} holds several checkpoints ({names}); submit one of them")
    return preferred[0]


def no_weights(folder: Path) -> InvalidCheckpoint:
    """Return the error for a folder without weights, which names what it holds instead."""
    return InvalidCheckpoint(
        f"the folder {folder.name} holds no weights: no .safetensors, .ckpt, .bin, .pt or .gguf file"
        f"{foreign.instead(folder, files_in(folder))}"
    )


def read_folder(folder: Path) -> tuple[Weights, str]:
    """Read the weights of a component's folder, and say in words which form that is. Raises :class:`InvalidCheckpoint`."""
    weights, form = read_weights(weights_file(folder))
    return weights, f"{form} folder"


def read_weights(file: Path, kind: Kind | None = None) -> tuple[Weights, str]:
    """Read the weights in one file by name, or of all shards of an index, and say in words which form that is.

    ``kind`` is the file's, if it was identified already. Raises :class:`InvalidCheckpoint` if the file cannot be read, and for
    tensors without plain numbers in memory.
    """
    tensors, form = read_tensors(file, kind)
    return without_markers(tensors), form


def without_markers(tensors: Weights) -> Weights:
    """Return the weights among tensors: those that mark how a model was trained, and empty ones, are not."""
    return {name: value for name, value in tensors.items() if name not in MARKERS and value.numel()}


def read_tensors(file: Path, kind: Kind | None = None) -> tuple[Weights, str]:
    """Read all tensors of a file or of shards as :func:`read_weights` does, those that are not weights too."""
    if is_index(file.name):
        return _read_shards(file, _named_shards(file))
    if match := shard_of_several(file.name):
        return _read_shards(file, _counted_shards(file, match))
    return _read_file(file, kind or identify_path(file))


def _read_file(file: Path, kind: Kind) -> tuple[Weights, str]:
    match kind:
        case "pickle":
            weights, left_out = read_pickle(file)
            return _cleaned(weights, file, f"PyTorch pickle{left_out}")
        case "safetensors":
            weights = read_safetensors(file)
            check_names(weights, file.name)
            return _cleaned(weights, file, "safetensors")
        case "gguf":
            raise InvalidCheckpoint(f"{file.name} is a GGUF file, which cannot be a part of a model; save it as safetensors")
        case _:
            raise InvalidCheckpoint(f"{file.name} is an archive inside the model; unpack it and submit its files")


def _cleaned(weights: Weights, file: Path, form: str) -> tuple[Weights, str]:
    """Return the tensors without wrappers in their names, and without averages of other tensors."""
    weights, averages = without_averages(unwrapped(weights, file.name))
    return weights, form + (f", its moving averages ({', '.join(averages)}…) not used" if averages else "")


def shards(index: Path) -> list[str]:
    """Return the names of the shards that an index lists, as it has them. Raises :class:`InvalidCheckpoint`."""
    mapping = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        raise InvalidCheckpoint(f"{index.name} has no weight_map; save the checkpoint again")
    return sorted(set(mapping.values()))


def is_floating(value: Tensor) -> bool:
    """Return whether the numbers can become float32; those of packed types cannot."""
    return value.is_floating_point() and value.dtype != torch.float4_e2m1fn_x2


def _named_shards(index: Path) -> list[Path]:
    """Return the shards that an index names. Raises :class:`InvalidCheckpoint` if one is not there."""
    for name in shards(index):
        if not _is_beside(index, name):
            raise InvalidCheckpoint(
                f"{index.name} names the shard {name[:MAX_NAME_CHARACTERS]!r}, which is not in its folder; upload all shards"
            )
    return [index.with_name(name) for name in shards(index)]


def _counted_shards(file: Path, match: re.Match[str]) -> list[Path]:
    """Return all shards, by the name of one. Raises :class:`InvalidCheckpoint` if one is not there."""
    count, digits = int(match["count"]), len(match["number"])
    if count > MAX_SHARDS:
        raise InvalidCheckpoint(f"{file.name} is said to be one of {count} shards; at most {MAX_SHARDS} are read")
    # Some programs count from zero.
    first = 0 if file.with_name(_shard_name(match, 0, digits)).is_file() else 1
    names = [_shard_name(match, number, digits) for number in range(first, first + count)]
    missing = [name for name in names if not file.with_name(name).is_file()]
    if missing:
        raise InvalidCheckpoint(
            f"{file.name} is one of {count} shards, and {missing[0]} is not in its folder"
            f"{f', nor are {len(missing) - 1} more' if len(missing) > 1 else ''}; submit all of them in one folder or archive"
        )
    return [file.with_name(name) for name in names]


def _shard_name(match: re.Match[str], number: int, digits: int) -> str:
    return f"{match['before']}-{number:0{digits}}-of-{match['count']}{match['after']}"


def _read_shards(named: Path, files: list[Path]) -> tuple[Weights, str]:
    weights: Weights = {}
    form = ""
    for file in files:
        more, form = _read_file(file, identify_path(file))
        if twice := weights.keys() & more.keys():
            raise InvalidCheckpoint(
                f"{named.name} and the files that belong to it hold {min(twice)} twice, so they are not parts of one "
                "checkpoint; save it again, or submit one of them under another name"
            )
        weights |= more
    return weights, f"sharded {form}"


def _is_beside(index: Path, name: str) -> bool:
    """Return whether a name leads to another file of weights in the folder of ``index``, and not elsewhere."""
    try:
        return Path(name).name == name and not is_index(name) and index.with_name(name).is_file()
    except (OSError, ValueError):  # for a name that no file system takes
        return False
