"""Download the denoiser of a repository on the hub: of one commit, and only what was chosen from its listing.

Only files that hold a denoiser's weights, or describe them, are fetched; never code. The hub's library is loaded at the first
download.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aiao_core.errors import HubUnavailable, InvalidReference, in_words
from aiao_core.formats.hub.choice import choose
from aiao_core.formats.hub.references import Reference, parse
from aiao_core.formats.hub.tensor_names import MAX_HEADER_BYTES, read_tensor_names
from aiao_core.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

TIMEOUT_SECONDS = 30
"""How long the hub may take to answer one request."""

LOOK_BYTES = 64 << 10
"""How much of a file's beginning is read at once."""


@dataclass(frozen=True)
class Download:
    """What was fetched."""

    reference: str
    """Names what was fetched: with the commit, and with the file if it is one."""
    path: Path
    """The file, or the folder of several."""


def download(reference: str, into: Path, *, max_bytes: int, progress: ProgressCallback) -> Download:
    """Fetch the denoiser that a reference means into the new folder ``into``.

    No token of this machine is used, so callers see no more than the public. Raises
    :class:`InvalidReference` for what can never be fetched, and :class:`HubUnavailable` if the hub does not answer.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # a log has no use for them, and the caller shows its own
    wanted, info = _find(parse(reference))
    commit = str(info.sha)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    chosen = choose(sizes, wanted, lambda name: _look(wanted.repository, name, commit) if sizes[name] else None)
    total = sum(sizes[name] for name in chosen)
    if total > max_bytes:
        raise InvalidReference(
            f"the {len(chosen)} files of {wanted} have {total} bytes, more than the {max_bytes} allowed here; "
            "download the checkpoint that you mean and submit that"
        )
    for done, name in enumerate(chosen):
        progress(Progress("download", done, len(chosen)))
        with _errors_in_words(wanted):
            hf_hub_download(wanted.repository, name, revision=commit, local_dir=into, token=False)
    shutil.rmtree(into / ".cache", ignore_errors=True)  # the library's notes on what it fetched
    fetched = replace(wanted, revision=commit)
    if len(chosen) > 1:
        return Download(str(fetched), into)
    return Download(str(replace(fetched, path=chosen[0], variant=None)), into / chosen[0])


def _find(wanted: Reference) -> tuple[Reference, "ModelInfo"]:
    """Return the reference, or what it meant before references could name files, and what the hub tells of the repository.

    Raises :class:`InvalidReference` if the repository bears out both.
    """
    before = wanted.as_revision
    if before is None:
        return wanted, _info(wanted)
    try:
        as_revision = before, _info(before)
    except _NoRevision:
        return wanted, _info(wanted)
    try:
        info = _info(wanted)
    except _NoRevision:
        return as_revision
    names = {file.rfilename for file in info.siblings or []}
    if wanted.path in names or any(name.startswith(f"{wanted.path}/") for name in names):
        raise InvalidReference(
            f"{wanted} may mean the file or folder {wanted.path} of {wanted.revision}, or the revision "
            f"{before.revision}; write {replace(wanted, revision=info.sha)} or {before}"
        )
    return as_revision


def _info(wanted: Reference) -> "ModelInfo":
    from huggingface_hub import HfApi

    with _errors_in_words(wanted):
        return HfApi(token=False).model_info(
            wanted.repository, revision=wanted.revision or "main", files_metadata=True, timeout=TIMEOUT_SECONDS
        )


def _look(repository: str, name: str, commit: str) -> list[str] | None:
    """Return the names of the tensors in a safetensors file of the hub, of which no more than the beginning is read."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    # Not compressed: then as many bytes come as are read.
    headers = build_hf_headers(token=False) | {"Range": f"bytes=0-{MAX_HEADER_BYTES + 7}", "Accept-Encoding": "identity"}
    url = hf_hub_url(repository, name, revision=commit)
    with (
        _errors_in_words(Reference(repository)),
        get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as answer,
    ):
        hf_raise_for_status(answer)
        return read_tensor_names(answer.iter_raw(LOOK_BYTES))


class _NoRevision(InvalidReference):
    """A repository without the revision."""


@contextmanager
def _errors_in_words(reference: Reference) -> Iterator[None]:
    """Turn what the hub's library raises inside the block into this library's errors."""
    from huggingface_hub import errors

    whole = Reference(reference.repository)
    try:
        yield
    except errors.GatedRepoError as error:
        raise InvalidReference(
            f"{whole} is gated: its owner grants access; download it with your own account and submit the files"
        ) from error
    except (errors.RevisionNotFoundError, errors.BadRequestError) as error:
        raise _NoRevision(
            f"{reference}: there is no such revision; name a branch, tag or commit that exists, with %2F for each slash in it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InvalidReference(
            f"there is no public repository {whole}; check the name, or, if it is private, download it with your own "
            "account and submit the files"
        ) from error
    except errors.HFValidationError as error:
        raise InvalidReference(f"{whole}: the hub gives no such names; check the owner and the name") from error
    except Exception as error:  # the library lets through whatever its HTTP client or the network raises
        raise HubUnavailable(
            f"the Hugging Face hub cannot be reached for {whole} ({type(error).__name__}: {in_words(error)}); try "
            "again where it can, or download the repository and submit its files"
        ) from error
