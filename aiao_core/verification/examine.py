"""Examine a suspect: read it, and with it an adapter's base and the registered source, and test it against a key.

The service and an owner on a machine of their own call the same function, so the same key and weights give both the same
numbers.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.archives import Limits
from aiao_core.formats.digests import sha256_path
from aiao_core.formats.hub import download, is_reference
from aiao_core.formats.suspects import base_in, load_source, load_suspect
from aiao_core.key import Architecture, OwnerKey
from aiao_core.method.acceleration import accelerator
from aiao_core.options import VerificationOptions
from aiao_core.progress import ProgressCallback, silent
from aiao_core.reports.parts import BitTest, Input
from aiao_core.reports.verification import Counts, Report
from aiao_core.verification.verify import Load, Subject, verify

NamedFile = tuple[Path, str]
"""A file or folder, and its name in the report."""


@dataclass(frozen=True)
class Material:
    """A file or folder that an examination uses: its name in the report, and how to get it."""

    name: str
    fetch: Callable[[], Path]
    """Called when the examination comes to it, possibly more than once."""
    sha256: str | None = None
    """None: to be computed from what ``fetch`` returns."""

    @classmethod
    def at(cls, path: Path) -> "Material":
        """Return the material at ``path`` on this machine. Raises :class:`InvalidCheckpoint` if nothing is there."""
        if not path.exists():
            raise InvalidCheckpoint(f"{path} does not exist")
        return cls(path.name, lambda: path)

    @classmethod
    def from_hub(cls, reference: str, into: Path, *, max_bytes: int, progress: ProgressCallback) -> "Material":
        """Download what a reference to the hub means into the new folder ``into``; its name then has the commit."""
        fetched = download(reference, into, max_bytes=max_bytes, progress=progress)
        return cls(fetched.reference, lambda: fetched.path)

    def as_input(self, role: Literal["suspect", "base", "source"]) -> Input:
        """Return the row of the report for this material."""
        return Input(role=role, name=self.name, sha256=self.sha256 or sha256_path(self.fetch()))


@dataclass(frozen=True)
class ParsedSuspect:
    """A suspect that could be read: its form in words, the digest of its weights, and how to load its denoisers."""

    form: str
    weights: str
    load: Load
    load_base: Load | None = None
    """Loads the denoiser without the adapters; None for a suspect without adapters, which has no base."""
    base_name: str | None = None
    base_given: bool = False
    """Whether the adapters change the base that was given, and not a denoiser beside them."""


Reader = Callable[[Path, Architecture, NamedFile | None], ParsedSuspect]
"""Reads a suspect, which an attacker made, as a denoiser of the architecture; the last argument is an adapter's base.

Raises as :func:`aiao_core.formats.suspects.load_suspect` does.
"""


SourceReader = Callable[[Path, Architecture], nn.Module]
"""Reads a source, which a client uploaded too. Raises as :func:`aiao_core.formats.suspects.load_source` does."""


@dataclass(frozen=True)
class ServiceRecord:
    """What the service knows of a registered model, and of tests before this one. Nobody else can show these."""

    model_name: str
    published: Input
    """The watermarked checkpoint."""
    panel: tuple[BitTest, ...] | None
    count: Callable[[str], Counts]
    """Counts a test of a suspect with these weights. Called once the suspect is read, before it is tested."""


def examine(
    suspect: Material,
    key: OwnerKey,
    *,
    base: Material | None = None,
    source: Material | None = None,
    record: ServiceRecord | None = None,
    read: Reader | None = None,
    read_source: SourceReader | None = None,
    limits: Limits | None = None,
    options: VerificationOptions | None = None,
    progress: ProgressCallback = silent,
    span: Callable[[str], AbstractContextManager[Any]] = lambda _: nullcontext(),
) -> Report:
    """Read ``suspect``, test it against ``key`` and report.

    ``base`` is the model that the suspect changes if it is an adapter; otherwise it is not used, and not reported. ``source``
    is the registered model before the watermark: what a key of version 3 is read against, and what shows permuted channels. Of
    an older key, readings that depend on the source or on the key's subpaths count only with ``record``, because only the
    service can show that both are older than the key; a key of version 3 is bound to both. ``read`` reads the suspect and its
    base, and ``read_source`` the source, by default in this process; ``limits`` bound what archives unpack to. ``span``
    surrounds the stages "read suspect", "run" and within it "read source".

    Raises :class:`aiao_core.errors.AdapterWithoutBase` for an adapter without ``base``, what reading raises as
    :func:`aiao_core.formats.suspects.load_suspect` does, and what testing raises as
    :func:`aiao_core.verification.verify.verify` does.
    """
    read = read or partial(read_in_process, limits=limits)
    read_source = read_source or (lambda file, like: load_source(file, like, limits))
    file, base_file = suspect.fetch(), (base.fetch(), base.name) if base else None
    with span("read suspect"):
        parsed = read(file, key.architecture, base_file)
    counts = record.count(parsed.weights) if record else None
    inputs = [suspect.as_input("suspect")]
    if base and parsed.base_given:
        inputs.append(base.as_input("base"))
    if record:
        inputs.append(record.published)
    if source:
        inputs.append(source.as_input("source"))

    def load(source: Material) -> nn.Module:
        with span("read source"):
            return _load_source(read_source, source.fetch(), key.architecture)

    with span("run"):
        return verify(
            parsed.load,
            key,
            subject=Subject(
                suspect_name=suspect.name,
                suspect_form=parsed.form,
                inputs=tuple(inputs),
                model_name=record.model_name if record else None,
                base_name=parsed.base_name,
                weights=parsed.weights,
                counts=counts,
                panel=record.panel if record else None,
            ),
            source=partial(load, source) if source else None,
            base=parsed.load_base,
            registration="service" if record else "key-file",
            options=options,
            progress=progress,
        )


def _load_source(read: SourceReader, file: Path, like: Architecture) -> nn.Module:
    try:
        return read(file, like).to(accelerator().device)
    except InvalidCheckpoint as error:
        # Also of an adapter: no other model may be named as the base of a source.
        kind = WrongArchitecture if isinstance(error, WrongArchitecture) else InvalidCheckpoint
        raise kind(f"the source cannot be used: {error}; name the model that was registered") from error


def examine_files(
    suspect: str | Path,
    key: OwnerKey,
    *,
    base: Path | None = None,
    source: Path | None = None,
    options: VerificationOptions | None = None,
    progress: ProgressCallback = silent,
) -> Report:
    """Examine files and folders of this machine, or a ``suspect`` on the hub, as :func:`aiao_core.formats.hub.parse` has it."""
    with _material(suspect, progress) as material:
        return examine(
            material,
            key,
            base=Material.at(base) if base else None,
            source=Material.at(source) if source else None,
            options=options,
            progress=progress,
        )


@contextmanager
def _material(suspect: str | Path, progress: ProgressCallback) -> Iterator[Material]:
    """Yield what ``suspect`` names; a download lives as long as the block."""
    if is_reference(str(suspect)):
        with tempfile.TemporaryDirectory(prefix="aiao-") as scratch:
            yield Material.from_hub(str(suspect), Path(scratch) / "hub", max_bytes=Limits().total_bytes, progress=progress)
    else:
        yield Material.at(Path(suspect))


def read_in_process(
    suspect: Path, like: Architecture, base: NamedFile | None = None, *, limits: Limits | None = None
) -> ParsedSuspect:
    """Read a suspect in this process."""
    found = load_suspect(suspect, like, base and base_in(*base, like, limits), limits)
    device = accelerator().device
    without_adapters = found.base
    return ParsedSuspect(
        found.form,
        found.weights,
        lambda: found.denoiser.to(device),
        (lambda: without_adapters.to(device)) if without_adapters is not None else None,
        found.base_name,
        found.base_given,
    )
