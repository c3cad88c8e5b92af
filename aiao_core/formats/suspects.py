"""Suspects, in the forms in which people find them, as a denoiser of the registered architecture.

Everything here is attacker-made. A suspect's own configuration decides nothing: its tensors must fit the registered one.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from aiao_core.denoisers.weights import digest
from aiao_core.errors import AdapterWithoutBase, InvalidCheckpoint, WrongArchitecture, printable
from aiao_core.formats.adapter_names import is_beside_denoiser
from aiao_core.formats.adapters import merge
from aiao_core.formats.archives import Limits, unpacked
from aiao_core.formats.folders import files_in, model_root
from aiao_core.formats.identify import Kind, identify_path
from aiao_core.formats.pipelines import build, by_names_of, check_fit, denoiser_folder, fill
from aiao_core.formats.suspect_files import RegisteredDenoiser, SuspectFile
from aiao_core.formats.weight_files import (
    WEIGHTS,
    Weights,
    check_whole,
    is_weights,
    no_weights,
    read_folder,
    read_json,
    weights_among,
    weights_by_content,
    weights_file,
)
from aiao_core.key import Architecture

MAX_FILES = 64

Base = Callable[[], tuple[Weights, str]]
"""Reads the denoiser's weights to which an adapter belongs, and says in words which these are. Called only for an adapter."""


@dataclass(frozen=True)
class Suspect:
    """A suspect's weights in the registered architecture, and the form in which they came."""

    denoiser: nn.Module
    form: str
    weights: str
    """Digest of what was read, before adapters were merged: the same on every machine, because rounding does not change it."""
    base: nn.Module | None = None
    """The denoiser without the adapters, if there are any. A mark in the base says nothing about the adapters."""
    base_name: str | None = None
    base_given: bool = False
    """Whether the adapters were merged into the caller's base, and not into a denoiser beside them."""


@dataclass(frozen=True)
class _ParsedWeights:
    """The weights of one denoiser, every tensor checked for its shape, and how they came to be."""

    weights: Weights
    form: str
    digest: str
    base: Weights | None = None
    base_name: str | None = None
    base_given: bool = False


def load_suspect(path: Path, like: Architecture, base: Base | None = None, limits: Limits | None = None) -> Suspect:
    """Read a suspect into a denoiser of the architecture ``like``.

    ``path`` is a pipeline folder, a denoiser's folder, a file of weights or a folder of such files: safetensors, pickle or
    GGUF; in diffusers' or the original layout; or a LoRA, LoHa or LoKr, which is merged into a denoiser beside it or else into
    ``base``. An archive of such a folder is unpacked within ``limits``. Raises :class:`WrongArchitecture` if the weights do not
    fit, :class:`InvalidCheckpoint` if they cannot be read, and :class:`aiao_core.errors.UnsafeArchive`.
    """
    with _content(path, limits) as (content, kind):
        parsed = _parse(content, kind, RegisteredDenoiser.of(like), base)
    return Suspect(
        _filled(like, parsed.weights),
        parsed.form,
        parsed.digest,
        None if parsed.base is None else _filled(like, parsed.base),
        parsed.base_name,
        parsed.base_given,
    )


def read_denoiser(path: Path, like: Architecture, limits: Limits | None = None) -> tuple[Weights, str]:
    """Read the weights of a full denoiser by diffusers' names, and their form: what an adapter may be merged into."""
    with _content(path, limits) as (content, kind):
        parsed = _parse(content, kind, RegisteredDenoiser.of(like), base=None)
    return parsed.weights, parsed.form


def base_in(path: Path, name: str, like: Architecture, limits: Limits | None = None) -> Base:
    """Return what reads the base called ``name`` from ``path``, a file or folder as :func:`load_suspect` takes it."""

    def read() -> tuple[Weights, str]:
        weights, form = read_denoiser(path, like, limits)
        return weights, f"{name} ({form})"

    return read


def load_source(path: Path, like: Architecture, limits: Limits | None = None) -> nn.Module:
    """Read the registered model before the watermark, of the architecture ``like``.

    A pipeline folder is read as at its registration: its denoiser alone, without the files beside it. Every other form is
    read as :func:`load_suspect` does, and raises the same.
    """
    with _content(path, limits) as (content, kind):
        part = denoiser_folder(content)
        if part is None or not (content / "model_index.json").is_file():
            return _filled(like, _parse(content, kind, RegisteredDenoiser.of(like), base=None).weights)
        _check_class(part, like.class_name)
        denoiser = build(like)
        fill(denoiser, by_names_of(denoiser, read_folder(part)[0]))
        return denoiser


def _filled(like: Architecture, weights: Weights) -> nn.Module:
    denoiser = build(like)
    fill(denoiser, weights)
    return denoiser


@contextmanager
def _content(path: Path, limits: Limits | None) -> Iterator[tuple[Path, Kind | None]]:
    """Yield the folder at ``path``, or in the archive there; or the file itself, with its kind."""
    kind = None if path.is_dir() else identify_path(path)
    if kind is None:
        yield model_root(path), None
    elif kind in ("archive", "images"):
        with unpacked(path, limits) as folder:
            yield folder, None
    else:
        yield path, kind


def _parse(path: Path, kind: Kind | None, registered: RegisteredDenoiser, base: Base | None) -> _ParsedWeights:
    """Read one denoiser from all files of ``path``: a full one or the base, and every adapter merged into it."""
    files = _files(path, registered.architecture.class_name)
    if len(files) == 1:
        return _parse_file(registered.read(files[0], kind), registered, base)
    named = {printable(file.relative_to(path).as_posix()): file for file in files}
    submission = _Submission.of(named, registered, of_pipeline=files[0].parent == denoiser_folder(path))
    if submission.full:
        weights, form = submission.full
        name = form.partition(": ")[0]
    elif submission.adapters and not submission.failed:
        weights, form, name = _read_base(base, registered)
    else:
        raise submission.error(registered.architecture.class_name)
    aside = submission.aside | submission.failed
    parsed = _merge(weights, form, name, submission.adapters, registered, aside if submission.full else None)
    unused = [f"{name}: not used, {_cause(error)}" for name, error in aside.items()]
    return replace(parsed, form="; ".join([parsed.form, *unused]), base_given=submission.full is None)


def _parse_file(file: SuspectFile, registered: RegisteredDenoiser, base: Base | None) -> _ParsedWeights:
    if file.recognized.adapter:
        return replace(_merge(*_read_base(base, registered), {"": file}, registered), base_given=True)
    weights, form = registered.weights_of(file)
    return _ParsedWeights(weights, form, digest(weights))


def _files(path: Path, class_name: str) -> list[Path]:
    """Return the files of weights, or indices of shards, in ``path``; of a denoiser's folder the one that counts."""
    if not path.is_dir():
        check_whole(path)
        return [path]
    part = denoiser_folder(path) or path
    described = _check_class(part, class_name)
    if described and any(is_weights(file.name) for file in part.iterdir()):  # else a single file beside its configurations
        chosen = weights_file(part)
        variants = WEIGHTS.partition(".")[0]
        others = [file for file in files_in(path) if file.parent == path and not file.name.startswith(variants)]
        files = [chosen, *(file for file in weights_among(others) if file != chosen)]
    else:
        inside = list(files_in(path))
        files = weights_among(inside) or weights_by_content(inside)
    if not files:
        raise no_weights(path)
    if len(files) > MAX_FILES:
        raise InvalidCheckpoint(f"the folder {path.name} holds {len(files)} files of weights; submit at most {MAX_FILES}")
    return files


def _check_class(part: Path, class_name: str) -> bool:
    """Return whether the folder has a configuration. Raises :class:`WrongArchitecture` if it describes another class."""
    described = read_json(part / "config.json").get("_class_name") if (part / "config.json").is_file() else None
    if described not in (None, class_name):
        raise WrongArchitecture(f"config.json describes a {described!s:.100}, but the registered model is a {class_name}")
    return bool(described)


@dataclass(frozen=True)
class _Submission:
    """What the files of a submission are, by name."""

    full: tuple[Weights, str] | None
    adapters: dict[str, SuspectFile]
    aside: dict[str, InvalidCheckpoint]
    """Parts of a pipeline that are not a denoiser: VAE, text encoders and their adapters."""
    failed: dict[str, InvalidCheckpoint]
    """What may have been meant as the denoiser, but is of another kind or cannot be read."""

    @classmethod
    def of(cls, files: dict[str, Path], registered: RegisteredDenoiser, *, of_pipeline: bool) -> "_Submission":
        """Read the files. ``of_pipeline``: the first one is a pipeline's own denoiser, and counts before others beside it."""
        denoisers: dict[str, tuple[Weights, str]] = {}
        adapters: dict[str, SuspectFile] = {}
        aside: dict[str, InvalidCheckpoint] = {}
        failed: dict[str, InvalidCheckpoint] = {}
        for name, path in files.items():
            file = None
            try:
                file = registered.read(path)
                if not file.recognized.adapter:
                    if denoisers and of_pipeline:
                        raise InvalidCheckpoint(f"because {next(iter(denoisers))} is the pipeline's own denoiser")
                    weights, form = registered.weights_of(file)
                    denoisers[name] = weights, f"{name}: {form}"
                elif all(map(is_beside_denoiser, file.weights)):
                    aside[name] = InvalidCheckpoint("an adapter for text encoders alone")
                else:
                    adapters[name] = file
            except InvalidCheckpoint as error:
                (aside if file and file.recognized.is_companion else failed)[name] = error
            if len(denoisers) > 1:
                raise InvalidCheckpoint(
                    f"the submission holds several checkpoints ({', '.join(denoisers)}); submit one of them"
                )
        return cls(next(iter(denoisers.values()), None), adapters, aside, failed)

    def error(self, class_name: str) -> InvalidCheckpoint:
        """Return why there is no denoiser."""
        if len(self.failed) == 1:
            (name, error), *_ = self.failed.items()
            return type(error)(f"{name}: {error}")
        causes = "; ".join(f"{name}: {_cause(error)}" for name, error in (self.failed or self.aside).items())
        return WrongArchitecture(f"none of the files is the denoiser of a {class_name}: {causes}")


def _read_base(base: Base | None, registered: RegisteredDenoiser) -> tuple[Weights, str, str]:
    """Return the base's weights, its form and its name."""
    if base is None:
        raise AdapterWithoutBase(
            "this is an adapter, which changes a base model: name the model that it was made for, or put both into one archive"
        )
    try:
        weights, form = base()
        check_fit(weights, registered.tensors)
        return weights, f"base: {form}", form.partition(" (")[0]
    except AdapterWithoutBase as error:
        raise InvalidCheckpoint(f"the base model cannot be used: {error}") from error
    except InvalidCheckpoint as error:
        raise type(error)(f"the base model cannot be used: {error}") from error


def _merge(
    weights: Weights,
    form: str,
    name: str,
    adapters: dict[str, SuspectFile],
    registered: RegisteredDenoiser,
    aside: dict[str, InvalidCheckpoint] | None = None,
) -> _ParsedWeights:
    """Merge every adapter into a denoiser; the form is that of the whole.

    An adapter for another base goes to ``aside``, if there is such a place. Raises :class:`InvalidCheckpoint` for two adapters
    that change the same layers: several saves of one training, or one adapter in two formats, are not to be added up.
    """
    base, forms, digests = weights, [form], [digest(weights)]
    changed_by: dict[str, str] = {}
    for label, file in adapters.items():
        try:
            merged = merge(weights, file.weights, file.config, registered.architecture.class_name)
        except WrongArchitecture as error:
            if aside is None:
                raise
            aside[label] = error
            continue
        if twice := next((changed_by[layer] for layer in sorted(merged.changed) if layer in changed_by), None):
            raise InvalidCheckpoint(
                f"the submission holds several adapters for the same layers ({twice}, {label}), which may be saves of one "
                "training; submit one of them"
            )
        changed_by |= dict.fromkeys(merged.changed, label)
        weights = merged.weights
        scaled = file.config or any(tensor.endswith("alpha") for tensor in file.weights)
        scale = "" if scaled else " with scale 1, for nothing says another"
        left_out = f", {merged.left_out} tensors for text encoders left out" if merged.left_out else ""
        forms.append(f"{label + ': ' if label else ''}{merged.form} ({file.form}), merged{scale}{left_out}")
        # Of what was merged alone: nobody has checked the sizes of tensors for text encoders.
        used = {tensor: value for tensor, value in file.weights.items() if not is_beside_denoiser(tensor)}
        digests += [digest(used), json.dumps(file.config, sort_keys=True)]
    if len(digests) == 1:
        return _ParsedWeights(weights, form, digests[0])
    whole = hashlib.sha256("\0".join(digests).encode()).hexdigest()
    return _ParsedWeights(weights, "; ".join(forms), f"sha256:{whole}", base, name)


def _cause(error: InvalidCheckpoint) -> str:
    """Return what is wrong, without what to do about it."""
    return str(error).partition(";")[0]
