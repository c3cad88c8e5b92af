"""Suspects, in whatever form they are found, as a denoiser of the registered architecture.

Everything here is attacker-made. A suspect's own configuration decides nothing: its tensors must fit the registered one.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from aiao_core.errors import AdapterWithoutBase, InvalidCheckpoint, WrongArchitecture, printable
from aiao_core.formats import adapters as lora
from aiao_core.formats.adapter_names import is_for_text_encoder
from aiao_core.formats.archives import Limits, opened
from aiao_core.formats.original_layouts import check_family, is_companion, to_diffusers
from aiao_core.formats.pipelines import build, denoiser_folder, fill, fitting, without_prefix
from aiao_core.formats.quantized import FP8, dequantise, read_gguf
from aiao_core.formats.weight_files import (
    WEIGHTS,
    Weights,
    digest,
    is_index,
    is_weights,
    read_folder,
    read_json,
    read_weights,
    shards,
    weights_file,
)
from aiao_core.key import Architecture

MAX_FILES = 64
MAX_ADAPTER_CONFIG_BYTES = 256 << 10
MAX_EXPANSION = 4
"""A quantised file may hold so many times the numbers of the denoiser, for it may bring more than the denoiser along."""

Base = Callable[[], tuple[Weights, str]]
"""Reads the denoiser's weights to which an adapter belongs, and says in words which these are. Called only for an adapter."""


@dataclass(frozen=True)
class Suspect:
    """A suspect's weights in the registered architecture, and the form in which they came."""

    denoiser: nn.Module
    form: str
    weights: str
    """Digest of what was read, before adapters were merged: the same on every machine, as rounding has no say in it."""
    base: nn.Module | None = None
    """The denoiser without the adapters, if there are any: whose mark it carries is no word about them."""
    base_name: str | None = None


@dataclass(frozen=True)
class _Read:
    """Weights of one denoiser, before they are checked tensor by tensor."""

    weights: Weights
    form: str
    digest: str
    base: Weights | None = None
    base_name: str | None = None


def load_suspect(path: Path, like: Architecture, base: Base | None = None, limits: Limits | None = None) -> Suspect:
    """Read a suspect into a denoiser of the architecture ``like``.

    ``path`` is a pipeline folder, a denoiser's folder, a file of weights or a folder of such files: safetensors, pickle or
    GGUF; in diffusers' or the original layout; or a LoRA, LoHa or LoKr, which is merged into a denoiser beside it or else into
    ``base``. An archive of such a folder is unpacked within ``limits``. Raises :class:`WrongArchitecture` if the weights do not
    fit, :class:`InvalidCheckpoint` if they cannot be read, and :class:`aiao_core.errors.UnsafeArchive`.
    """
    with opened(path, limits) as content:
        read = _read(content, _Registered(like, build(like).state_dict()), base)
    without_adapters = None if read.base is None else _filled(like, read.base)
    return Suspect(_filled(like, read.weights), read.form, read.digest, without_adapters, read.base_name)


def _filled(like: Architecture, weights: Weights) -> nn.Module:
    denoiser = build(like)
    fill(denoiser, weights)
    return denoiser


def read_denoiser(path: Path, like: Architecture, limits: Limits | None = None) -> tuple[Weights, str]:
    """Read the weights of a full denoiser by diffusers' names, and their form: what an adapter may be merged into."""
    with opened(path, limits) as content:
        read = _read(content, _Registered(like, build(like).state_dict()), base=None)
    return read.weights, read.form


def base_in(path: Path, name: str, like: Architecture, limits: Limits | None = None) -> Base:
    """Return what reads the base called ``name`` from ``path``, a file or folder as :func:`load_suspect` takes it."""

    def read() -> tuple[Weights, str]:
        weights, form = read_denoiser(path, like, limits)
        return weights, f"{name} ({form})"

    return read


def load_source(path: Path, like: Architecture, limits: Limits | None = None) -> nn.Module:
    """Read the registered model before the watermark, of the architecture ``like``.

    A pipeline folder is read as at its registration: its denoiser alone, whatever lies beside it. Every other form is read as
    :func:`load_suspect` does, and raises the same.
    """
    with opened(path, limits) as content:
        part = denoiser_folder(content)
        if not (content / "model_index.json").is_file() or part is None:
            return load_suspect(content, like).denoiser
        _check_class(part, like.class_name)
        return _filled(like, read_folder(part)[0])


@dataclass(frozen=True)
class _Registered:
    """The registered architecture, and the tensors of its denoiser by name, without numbers."""

    architecture: Architecture
    tensors: Weights

    def names_fit(self, weights: Weights) -> bool:
        """Whether these are a denoiser's tensors by diffusers' names. A few names occur in the original layouts too."""
        named = without_prefix(weights, self.tensors)
        return 2 * sum(name in named for name in self.tensors) >= len(self.tensors)

    def check_expansion(self, quantised: Weights) -> None:
        """Refuse weights of another kind, or far too many, before they take up to sixteen times the memory of their file."""
        if not self.names_fit(quantised):
            check_family(quantised, self.architecture)
        numbers = sum(value.numel() for value in quantised.values() if value.is_meta or value.dtype in FP8)
        largest = MAX_EXPANSION * sum(value.numel() for value in self.tensors.values())
        if numbers > largest:
            raise WrongArchitecture(
                f"the file holds {numbers} quantised numbers, too many for the denoiser of the registered "
                f"{self.architecture.class_name}; submit the denoiser alone"
            )

    def to_denoiser(self, weights: Weights, form: str) -> tuple[Weights, str]:
        """``weights`` in floating point and by the names that the registered denoiser has, and their form in words."""
        self.check_expansion(weights)
        weights, quantised = dequantise(weights)
        layout = None
        if not self.names_fit(weights) and (converted := to_diffusers(weights, self.architecture)):
            weights, layout = converted
        return without_prefix(weights, self.tensors), ", ".join(word for word in (form, quantised, layout) if word)


def _read(path: Path, registered: _Registered, base: Base | None) -> _Read:
    """One denoiser from all files of ``path``: a full one or the base, and every adapter merged into it."""
    files = _files(path, registered.architecture.class_name)
    if len(files) == 1:
        file = _File.read(files[0], registered)
        if not file.adapter:
            weights, form = registered.to_denoiser(file.weights, file.form)
            return _Read(weights, form, digest(fitting(weights, registered.tensors)))
        return _merged(*_base(base, registered), [("", file)])
    found = _Found.among({printable(file.relative_to(path).as_posix()): file for file in files}, registered)
    if found.full:
        weights, form = found.full
        name = form.partition(": ")[0]
    elif found.adapters and not found.failed:
        weights, form, name = _base(base, registered)
    else:
        raise found.error(registered.architecture.class_name)
    aside = [f"{name}: not used, {_cause(error)}" for name, error in (found.aside | found.failed).items()]
    read = _merged(weights, form, name, [(f"{name}: ", file) for name, file in found.adapters.items()])
    return replace(read, form="; ".join([read.form, *aside]))


def _files(path: Path, class_name: str) -> list[Path]:
    """The files of weights, or indices of shards, in ``path``; of a denoiser's folder the one that counts."""
    if not path.is_dir():
        return [path]
    part = denoiser_folder(path) or path
    if _check_class(part, class_name):
        chosen = weights_file(part)
        variants = WEIGHTS.partition(".")[0]
        beside = [file for file in _weights_among(path.glob("*")) if file != chosen and not file.name.startswith(variants)]
        files = [chosen, *beside]
    else:
        files = _weights_among(path.rglob("*"))
    if not files:
        raise InvalidCheckpoint(f"the folder {path.name} holds no weights: no .safetensors, .ckpt, .bin, .pt or .gguf file")
    if len(files) > MAX_FILES:
        raise InvalidCheckpoint(f"the folder {path.name} holds {len(files)} files of weights; submit at most {MAX_FILES}")
    return files


def _check_class(part: Path, class_name: str) -> bool:
    """Return whether the folder has a configuration. Raises :class:`WrongArchitecture` if it describes another class."""
    described = read_json(part / "config.json").get("_class_name") if (part / "config.json").is_file() else None
    if described not in (None, class_name):
        raise WrongArchitecture(f"config.json describes a {described!s:.100}, but the registered model is a {class_name}")
    return bool(described)


def _weights_among(files: Iterable[Path]) -> list[Path]:
    """Files of weights, and for shards their index."""
    found = sorted(file for file in files if is_weights(file.name) and file.is_file())
    in_shards = {index.with_name(name) for index in found if is_index(index.name) for name in shards(index)}
    return [file for file in found if file not in in_shards]


@dataclass(frozen=True)
class _File:
    """A file of weights, not yet converted, and whether its names are those of an adapter."""

    weights: Weights
    form: str
    adapter: bool
    config: dict[str, Any]
    """Of an adapter: its ranks and scales."""

    @classmethod
    def read(cls, file: Path, registered: _Registered) -> "_File":
        if file.suffix == ".gguf":
            weights, form = read_gguf(file, registered.check_expansion), "GGUF"
        else:
            weights, form = read_weights(file)
        adapter = lora.is_adapter(weights)
        return cls(weights, form, adapter, _adapter_config(file) if adapter else {})


@dataclass(frozen=True)
class _Found:
    """What the files of a submission are, by name."""

    full: tuple[Weights, str] | None
    adapters: dict[str, _File]
    aside: dict[str, InvalidCheckpoint]
    """Parts of a pipeline that are no denoiser: VAE, text encoders and their adapters."""
    failed: dict[str, InvalidCheckpoint]
    """What may have been meant as the denoiser, but is of another kind or cannot be read."""

    @classmethod
    def among(cls, files: dict[str, Path], registered: _Registered) -> "_Found":
        denoisers: dict[str, tuple[Weights, str]] = {}
        adapters: dict[str, _File] = {}
        aside: dict[str, InvalidCheckpoint] = {}
        failed: dict[str, InvalidCheckpoint] = {}
        for name, path in files.items():
            weights: Weights = {}
            try:
                file = _File.read(path, registered)
                weights = file.weights
                if not file.adapter:
                    denoiser, form = registered.to_denoiser(weights, file.form)
                    denoisers[name] = fitting(denoiser, registered.tensors), f"{name}: {form}"
                elif all(map(is_for_text_encoder, weights)):
                    aside[name] = InvalidCheckpoint("an adapter for text encoders alone")
                else:
                    adapters[name] = file
            except InvalidCheckpoint as error:
                (aside if is_companion(weights) else failed)[name] = error
            if len(denoisers) > 1:
                raise InvalidCheckpoint(
                    f"the submission holds several checkpoints ({', '.join(denoisers)}); submit one of them"
                )
        return cls(next(iter(denoisers.values()), None), adapters, aside, failed)

    def error(self, class_name: str) -> InvalidCheckpoint:
        """Why there is no denoiser."""
        if len(self.failed) == 1:
            (name, error), *_ = self.failed.items()
            return type(error)(f"{name}: {error}")
        causes = "; ".join(f"{name}: {_cause(error)}" for name, error in (self.failed or self.aside).items())
        return WrongArchitecture(f"none of the files is the denoiser of a {class_name}: {causes}")


def _base(base: Base | None, registered: _Registered) -> tuple[Weights, str, str]:
    """The base's weights, its form and its name."""
    if base is None:
        raise AdapterWithoutBase(
            "this is an adapter, which changes a base model: name the model that it was made for, or put both into one archive"
        )
    try:
        weights, form = base()
        return fitting(weights, registered.tensors), f"base: {form}", form.partition(" (")[0]
    except AdapterWithoutBase as error:
        raise InvalidCheckpoint(f"the base model cannot be used: {error}") from error
    except InvalidCheckpoint as error:
        raise type(error)(f"the base model cannot be used: {error}") from error


def _merged(weights: Weights, form: str, name: str, adapters: list[tuple[str, _File]]) -> _Read:
    """A denoiser with every adapter merged into it, and the form of the whole."""
    known = digest(weights)
    if not adapters:
        return _Read(weights, form, known)
    base, forms, digests = weights, [form], [known]
    for label, file in adapters:
        merged = lora.merge(weights, file.weights, file.config)
        weights = merged.weights
        scaled = file.config or any(tensor.endswith("alpha") for tensor in file.weights)
        scale = "" if scaled else " with scale 1, for nothing says another"
        left_out = f", {merged.text_tensors} tensors for text encoders left out" if merged.text_tensors else ""
        forms.append(f"{label}{merged.form} ({file.form}), merged{scale}{left_out}")
        # Of what was merged alone: nobody has checked the sizes of tensors for text encoders.
        used = {tensor: value for tensor, value in file.weights.items() if not is_for_text_encoder(tensor)}
        digests += [digest(used), json.dumps(file.config, sort_keys=True)]
    whole = hashlib.sha256("\0".join(digests).encode()).hexdigest()
    return _Read(weights, "; ".join(forms), f"sha256:{whole}", base, name)


def _cause(error: InvalidCheckpoint) -> str:
    """What is wrong, without what to do about it."""
    return str(error).partition(";")[0]


def _adapter_config(file: Path) -> dict[str, Any]:
    """The ranks and scales that PEFT writes beside an adapter, and diffusers into its metadata."""
    if (beside := file.with_name("adapter_config.json")).is_file():
        return read_json(beside, MAX_ADAPTER_CONFIG_BYTES)
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, "pt") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        config = json.loads(text) if len(text) <= MAX_ADAPTER_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise InvalidCheckpoint(f"{file.name}: its lora_adapter_metadata is no JSON object of a sensible size; save it again")
    return config
