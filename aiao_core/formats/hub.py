"""Suspects on the Hugging Face hub, by references such as ``hf://owner/name@revision``.

Only files that hold a denoiser's weights, or describe them, are fetched; never code. Torch-free, and the hub's library is
loaded at the first download, so that the API process checks references.
"""

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aiao_core.errors import HubUnavailable, InvalidReference, in_words
from aiao_core.progress import Progress, ProgressCallback

SCHEME = "hf://"
_WORD = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
REFERENCE = rf"^{SCHEME}{_WORD}/{_WORD}(?:@{_WORD}(?:/{_WORD})*)?$"
"""Owner, name and, if it is not ``main``, a branch, tag or commit. No part can lead out of a folder."""

MAX_REFERENCE = 256
TIMEOUT_SECONDS = 30
"""How long the hub may take to answer one request."""

PLACES = ("unet/", "transformer/", "")
"""Where the denoiser is looked for: in a pipeline's folders, then at the top."""
FORMATS = (".safetensors", ".gguf", ".bin", ".ckpt", ".pt", ".pth")
"""Of weights; safetensors and GGUF before pickles."""
COMPONENT = "diffusion_pytorch_model"
"""How ``save_pretrained`` calls a denoiser's weights. Several names that begin so are variants of one checkpoint."""
CONFIGURATIONS = ("config.json", "adapter_config.json")

_SHARD = re.compile(r"-\d{5}-of-\d{5}")


def download(reference: str, into: Path, *, max_bytes: int, progress: ProgressCallback) -> str:
    """Fetch the denoiser of a reference into the new folder ``into``, and return the reference with its commit.

    No token of this machine is used, so callers see no more than the public. Raises
    :class:`InvalidReference` for what can never be fetched, and :class:`HubUnavailable` if the hub does not answer.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # a log has no use for them, and the caller shows its own
    repository, _, revision = check_reference(reference).removeprefix(SCHEME).partition("@")
    with _errors_in_words(reference):
        api = HfApi(token=False)
        info = api.model_info(repository, revision=revision or "main", files_metadata=True, timeout=TIMEOUT_SECONDS)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    chosen = choose(sizes)
    if not chosen:
        raise InvalidReference(f"{reference} holds no weights of a denoiser ({', '.join(FORMATS)}); name another repository")
    total = sum(sizes[name] for name in chosen)
    if total > max_bytes:
        raise InvalidReference(
            f"the {len(chosen)} files of {reference} have {total} bytes, more than the {max_bytes} allowed here; "
            "download the checkpoint that you mean and submit that"
        )
    for done, name in enumerate(chosen):
        progress(Progress("download", done, len(chosen)))
        with _errors_in_words(reference):
            hf_hub_download(repository, name, revision=info.sha, local_dir=into, token=False)
    shutil.rmtree(into / ".cache", ignore_errors=True)  # the library's notes on what it fetched
    return f"{SCHEME}{repository}@{info.sha}"


def choose(names: Iterable[str]) -> list[str]:
    """The files of a repository to fetch, by name: the denoiser in its best format, and what describes it."""
    known = sorted(name for name in names if "\\" not in name and not any(part.startswith(".") for part in name.split("/")))
    for place in PLACES:
        inside = [name.removeprefix(place) for name in known if name.startswith(place)]
        weights = [name for name in inside if _is_weights(name, place)]
        if weights:
            best = min(map(_rank, weights))
            found = [name for name in weights if _rank(name) == best]
            return [place + name for name in inside if name in found or name in CONFIGURATIONS]
    return []


def _is_weights(name: str, place: str) -> bool:
    """Whether a file holds weights, or is the index of such files. Folders may hold other programs' weights too."""
    if "/" in name or (place and not name.startswith((COMPONENT, "adapter_model."))):
        return False
    return name.endswith(FORMATS) or (".index." in name and name.endswith(".json"))


def _rank(name: str) -> tuple[int, list[str]]:
    """Which file is preferred: safetensors, then the plain one, then variants such as fp16 by name."""
    words = _SHARD.sub("", name).split(".")
    form = next((number for number, suffix in enumerate(FORMATS) if suffix[1:] in words[1:]), len(FORMATS))
    kinds = {"index", "json", *(suffix[1:] for suffix in FORMATS)}
    return min(form, 2), [word for word in words[1:] if word not in kinds] if words[0] == COMPONENT else []


def check_reference(reference: str) -> str:
    """``reference`` if it can be one. Raises :class:`InvalidReference`."""
    if len(reference) > MAX_REFERENCE or not re.fullmatch(REFERENCE, reference):
        raise InvalidReference(f"{reference[:MAX_REFERENCE]!r} is no reference to the hub; one looks like hf://owner/name@main")
    return reference


@contextmanager
def _errors_in_words(reference: str) -> Iterator[None]:
    """Turn what the hub's library raises inside the block into this library's errors."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise InvalidReference(
            f"{reference} is gated: its owner grants access; download it with your own account and submit the files"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InvalidReference(f"{reference} has no such revision; name a branch, tag or commit that exists") from error
    except errors.RepositoryNotFoundError as error:
        raise InvalidReference(
            f"there is no public repository {reference}; check the name, or, if it is private, download it with your own "
            "account and submit the files"
        ) from error
    except Exception as error:  # the library lets through whatever its HTTP client or the network raises
        raise HubUnavailable(
            f"the Hugging Face hub cannot be reached for {reference} ({type(error).__name__}: {in_words(error)}); try "
            "again where it can, or download the repository and submit its files"
        ) from error
