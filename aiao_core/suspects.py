"""Suspects, in whatever form they are found, as a denoiser of the registered architecture.

Everything here is attacker-made. A suspect's own configuration decides nothing: its tensors must fit the registered one.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from aiao_core import lora
from aiao_core.checkpoints import build, denoiser_folder, fill, without_prefix
from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.key import Architecture
from aiao_core.quantised import check_plain, dequantise, read_gguf
from aiao_core.single_file import to_diffusers
from aiao_core.weights import Weights, is_weights, read_folder, read_json, read_weights

MAX_FILES = 64

Base = Callable[[], tuple[Weights, str]]
"""Reads the denoiser's weights to which an adapter belongs, and says in words which these are. Called only for an adapter."""


@dataclass(frozen=True)
class Suspect:
    """A suspect's weights in the registered architecture, and the form in which they came."""

    denoiser: nn.Module
    form: str


def load_suspect(path: Path, like: Architecture, base: Base | None = None) -> Suspect:
    """Read a suspect into a denoiser of the architecture ``like``.

    ``path`` is a pipeline folder, a denoiser's folder, a file of weights or a folder of such files: safetensors, pickle or
    GGUF; in diffusers' or the original layout; or a LoRA, LoHa or LoKr, which is merged into a denoiser beside it or else into
    ``base``. Raises :class:`WrongArchitecture` if its weights do not fit and :class:`InvalidCheckpoint` if they cannot be read.
    """
    denoiser = build(like)
    weights, form = _read(path, like, denoiser, base)
    fill(denoiser, weights)
    return Suspect(denoiser, form)


def read_denoiser(path: Path, like: Architecture) -> tuple[Weights, str]:
    """The weights of a full denoiser by diffusers' names, and their form: what an adapter may be merged into."""
    return _read(path, like, build(like), base=None)


def _read(path: Path, like: Architecture, denoiser: nn.Module, base: Base | None) -> tuple[Weights, str]:
    if not path.is_dir():
        return _combined([_File.read(path)], like, denoiser, base)
    part = denoiser_folder(path) or path
    if (part / "config.json").is_file():
        class_name = read_json(part / "config.json").get("_class_name")
        if class_name != like.class_name:
            raise WrongArchitecture(f"the suspect is a {class_name}, but the registered model is a {like.class_name}")
        return _as_denoiser(*read_folder(part), like, denoiser.state_dict())
    if any(path.glob("*.index*.json")):
        return _as_denoiser(*read_folder(path), like, denoiser.state_dict())
    files = sorted(file for file in path.rglob("*") if file.is_file() and is_weights(file.name))
    if not 1 <= len(files) <= MAX_FILES:
        raise InvalidCheckpoint(
            f"the folder {path.name} holds {len(files)} files of weights (.safetensors, .bin, .pt, .ckpt, .gguf); "
            f"submit between 1 and {MAX_FILES}"
        )
    return _combined([_File.read(file) for file in files], like, denoiser, base)


@dataclass(frozen=True)
class _File:
    """A file of weights and what its names say it is."""

    name: str
    weights: Weights
    form: str
    adapter: bool
    config: dict[str, Any]
    """Of an adapter: its ranks and scales."""

    @classmethod
    def read(cls, file: Path) -> "_File":
        weights, form = (read_gguf(file), "GGUF") if file.suffix == ".gguf" else read_weights(file)
        adapter = lora.is_adapter(weights)
        return cls(file.name, weights, form, adapter, _adapter_config(file) if adapter else {})


def _combined(files: list[_File], like: Architecture, denoiser: nn.Module, base: Base | None) -> tuple[Weights, str]:
    """One denoiser from all files: a full one or the base, and every adapter merged into it."""
    adapters = [file for file in files if file.adapter]
    full, forms, others = _full_denoiser([file for file in files if not file.adapter], like, denoiser)
    if full is None and not adapters:
        raise WrongArchitecture(f"none of the files is the denoiser of a {like.class_name}: " + "; ".join(others))
    if full is None:
        if base is None:
            raise InvalidCheckpoint(
                f"{adapters[0].name} is an adapter and changes a base model; say which one, or put it into the same archive"
            )
        full, form = base()
        forms.append(f"the base model: {form}")
    for file in adapters:
        merged = lora.merge(full, file.weights, file.config)
        full = merged.weights
        forms.append(f"{file.name}: {merged.form} ({file.form}), merged")
    if len(files) == 1 and not adapters:
        return full, forms[0].removeprefix(f"{files[0].name}: ")
    return full, "; ".join([*forms, *others])


def _full_denoiser(files: list[_File], like: Architecture, denoiser: nn.Module) -> tuple[Weights | None, list[str], list[str]]:
    """The one full denoiser among ``files`` by diffusers' names, its form, and why the other files are none."""
    found: dict[str, tuple[Weights, str]] = {}
    others = []
    expected = denoiser.state_dict()
    for file in files:
        try:
            weights, form = _as_denoiser(file.weights, file.form, like, expected)
        except WrongArchitecture as error:
            if len(files) == 1:
                raise
            others.append(f"{file.name}: not used, {error}")
            continue
        if len(files) == 1 or any(name in expected for name in weights):
            found[file.name] = weights, form
        else:
            others.append(f"{file.name}: not used, it holds no weights of the denoiser")
    if len(found) > 1:
        raise InvalidCheckpoint(f"the submission holds several checkpoints ({', '.join(found)}); submit one of them")
    for name, (weights, form) in found.items():
        return weights, [f"{name}: {form}"], others
    return None, [], others


def _as_denoiser(weights: Weights, form: str, like: Architecture, expected: Weights) -> tuple[Weights, str]:
    """``weights`` in floating point and by the names that the registered denoiser, ``expected``, has."""
    weights, quantised = dequantise(weights)
    layout = None
    if not any(name in expected for name in without_prefix(weights, expected)) and (converted := to_diffusers(weights, like)):
        weights, layout = converted
    check_plain(weights)
    return without_prefix(weights, expected), ", ".join(word for word in (form, quantised, layout) if word)


def _adapter_config(file: Path) -> dict[str, Any]:
    """The ranks and scales that PEFT writes beside an adapter, and diffusers into its metadata."""
    if (beside := file.with_name("adapter_config.json")).is_file():
        return read_json(beside)
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, "pt") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidCheckpoint(f"{file.name}: its lora_adapter_metadata is no readable JSON: {error}") from error
    return config if isinstance(config, dict) else {}
