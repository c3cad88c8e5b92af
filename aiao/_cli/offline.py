"""The same test without any service; needs torch."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import nn

from aiao._client.errors import ClientError
from aiao._client.key_files import load_key
from aiao_core.errors import AdapterWithoutBase, InvalidCheckpoint
from aiao_core.formats.archives import Limits, opened
from aiao_core.formats.digests import sha256_path
from aiao_core.formats.hub import SCHEME, download
from aiao_core.formats.suspects import load_suspect, read_denoiser
from aiao_core.formats.weight_files import Weights
from aiao_core.key import OwnerKey
from aiao_core.options import VerificationOptions
from aiao_core.progress import ProgressCallback, silent
from aiao_core.reports.parts import Input
from aiao_core.reports.verification import Report
from aiao_core.verification.verify import Subject, verify


def verify_offline(
    suspect: str | Path,
    key_file: Path,
    options: VerificationOptions,
    progress: ProgressCallback = silent,
    *,
    base: Path | None = None,
    source: Path | None = None,
) -> Report:
    """Test ``suspect`` with an owner's key file on this machine; the same key and weights give the service's numbers.

    ``suspect`` is a file, a folder or a repository ``hf://owner/name@revision``; ``base`` the model that an adapter changes;
    ``source`` the registered model before the watermark: a control, and what shows permuted channels. Readings that depend on
    the source or on the key file's subpaths are reported and do not count, because nothing shows here that both are older than
    the key.
    """
    for path in (suspect, base, source):
        if path is not None and not str(path).startswith(SCHEME) and not Path(path).exists():
            raise ClientError(f"{path} does not exist")
    key = load_key(key_file)
    inputs: list[Input] = []

    def read_base(base: Path) -> tuple[Weights, str]:
        inputs.append(Input(role="base", name=base.name, sha256=sha256_path(base)))
        with opened(base) as path:
            weights, form = read_denoiser(path, key.architecture)
        return weights, f"{base.name} ({form})"

    with _submitted(suspect, progress) as (path, submitted):
        try:
            loaded = load_suspect(path, key.architecture, partial(read_base, base) if base else None)
        except AdapterWithoutBase as error:
            raise AdapterWithoutBase(
                "the suspect is an adapter, which changes a base model; name that one with --base"
            ) from error
    if source is not None:
        inputs.append(Input(role="source", name=source.name, sha256=sha256_path(source)))
    names = Subject(submitted.name, loaded.form, (submitted, *inputs), base_name=loaded.base_name, weights=loaded.weights)
    return verify(
        loaded.denoiser,
        key,
        subject=names,
        source=None if source is None else lambda: _read_source(source, key),
        base=loaded.base,
        options=options,
        progress=progress,
    )


def _read_source(source: Path, key: OwnerKey) -> nn.Module:
    try:
        with opened(source) as path:
            return load_suspect(path, key.architecture).denoiser
    except InvalidCheckpoint as error:
        raise type(error)(f"the source cannot be used: {error}; name the model that was registered with --source") from error


@contextmanager
def _submitted(suspect: str | Path, progress: ProgressCallback) -> Iterator[tuple[Path, Input]]:
    """The suspect's file or folder, and its name and digest for the report."""
    if str(suspect).startswith(SCHEME):
        with tempfile.TemporaryDirectory(prefix="aiao-") as scratch:
            folder = Path(scratch) / "hub"
            name = download(str(suspect), folder, max_bytes=Limits().total_bytes, progress=progress)
            yield folder, Input(role="suspect", name=name, sha256=sha256_path(folder))
    else:
        with opened(Path(suspect)) as path:
            yield path, Input(role="suspect", name=Path(suspect).name, sha256=sha256_path(Path(suspect)))
