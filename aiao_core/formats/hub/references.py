"""References to the Hugging Face hub, such as ``hf://owner/name@revision/folder/file.gguf``, and addresses of its pages.

A reference names a place inside a repository and never a host: only the configured hub is ever contacted. Torch-free.
"""

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit

from aiao_core.errors import InvalidReference

SCHEME = "hf://"
MAX_REFERENCE = 1024
"""Most characters of a reference, escapes not counted: a path on the hub with what stands before it."""

MAX_TEXT = 16 * MAX_REFERENCE
"""Most characters of a reference with its escapes: one character takes 12 at most."""

MAX_HOST = 100
"""Characters of a host that an error repeats."""

WORD = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_NAME = rf"{WORD}/{WORD}"
_REVISION = rf"{WORD}(?:/{WORD})*"
_ESCAPE = r"%(?:2[0-9A-D]|[346][0-9A-F]|5[0-9ABD-F]|7[0-9A-E])"
_SEGMENT = rf"(?:[^\x00-\x1f\x7f.%#?/\\]|{_ESCAPE})(?:[^\x00-\x1f\x7f%#?/\\]|{_ESCAPE})*"
_PLACE = rf"{SCHEME}{_NAME}(?:@{WORD}(?:%2[Ff]{WORD})*)?(?:/{_SEGMENT})*(?:\?variant={WORD})?"
_PAGE = rf"https://(?:huggingface\.co|hf\.co)/{_NAME}(?:/(?:tree|blob|resolve)/{WORD}(?:%2[Ff]{WORD})*(?:/{_SEGMENT})*)?"
REFERENCE = rf"^(?:{_PLACE}|{_PAGE}(?:\?download=true)?)$"
"""What a document shows of a reference's form. :func:`parse` takes all that fits, and a little more."""

LIKE = (
    "one looks like hf://owner/name@main, hf://owner/name@main/folder/file.safetensors, or the address of the repository's page"
)

_WITH_SLASHES = re.compile(rf"refs/(?:pr/[0-9]+|convert/{WORD})(?=/|\Z)")
"""The revisions whose slashes need no escape: the hub makes them itself, and everybody writes them so."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Characters that no name has: the controls of ASCII, and halves of a pair, which no bytes stand for."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~-+=,@")
"""ASCII characters of a path that neither a shell nor an address understands as anything else."""

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_PAGES = ("tree", "blob", "resolve", "raw", "blame")
"""Pages of a folder or a file."""

_OTHER_KINDS = ("datasets", "spaces", "kernels", "buckets")
"""What the hub keeps beside models, as it writes them before an owner's name."""

_FILES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin", ".dduf", ".zip", ".tar", ".gz", ".tgz", ".json")
"""Names that end so are meant as files of this machine, and no repository is called so."""


@dataclass(frozen=True)
class Reference:
    """A place in a public repository: the whole of it, a folder or a file."""

    repository: str
    """Owner and name."""
    revision: str | None = None
    """A branch, tag or commit; None is the hub's ``main``."""
    path: str = ""
    variant: str | None = None
    """Of the weights in a diffusers folder, such as ``fp16``."""

    def __str__(self) -> str:
        """Return the reference as :func:`parse` takes it, in characters that shells and pages leave as they are."""
        revision = self.revision or ""
        if not _WITH_SLASHES.fullmatch(revision):
            revision = revision.replace("/", "%2F")
        path = "/" + "/".join(map(_escaped, self.path.split("/"))) if self.path else ""
        variant = f"?variant={self.variant}" if self.variant else ""
        return f"{SCHEME}{self.repository}{'@' * bool(revision)}{revision}{path}{variant}"

    @property
    def as_revision(self) -> "Reference | None":
        """Return what this reference meant while everything after ``@`` was the revision; None if it cannot mean that."""
        whole = f"{self.revision}/{self.path}"
        if self.revision is None or not self.path or self.variant or "/" in self.revision or _COMMIT.fullmatch(self.revision):
            return None
        return Reference(self.repository, whole) if re.fullmatch(_REVISION, whole) else None


def is_name(text: str) -> bool:
    """Return whether a file or folder of this name lies in the folder where it is written, and is not hidden there."""
    return bool(text) and not text.startswith(".") and not any(mark in text for mark in "/\\") and not _CONTROLS.search(text)


def is_reference(text: str) -> bool:
    """Return whether ``text`` is meant as a reference or an address, and not as a file: :func:`parse` says if it is one."""
    return "://" in text


def parse(text: str) -> Reference:
    """Parse ``hf://owner/name``, with ``@revision``, ``/path`` and ``?variant=…``, or the address of a page of the hub.

    In a path ``%20`` and its like stand for characters. A slash of a revision is written ``%2F``, except in ``refs/pr/3`` and
    ``refs/convert/…``. Raises :class:`InvalidReference`, which repeats nothing of an address but its host: addresses may hold
    secrets.
    """
    if len(text) > MAX_TEXT:
        raise _malformed(f"it has {len(text)} characters")
    if _CONTROLS.search(text):
        raise _malformed("it holds a control character")
    reference = _parse_place(text.removeprefix(SCHEME)) if text.startswith(SCHEME) else _parse_address(text)
    parts = (reference.repository, reference.revision, reference.path, reference.variant)
    if sum(len(part) for part in parts if part) > MAX_REFERENCE:
        raise _malformed(f"it has more than {MAX_REFERENCE} characters")
    return reference


def without_scheme(text: str) -> Reference | None:
    """Return what ``owner/name``, ``owner/name@revision`` or an address without ``https://`` means where no such file is.

    None for what looks like a file. Raises as :func:`parse` does.
    """
    if text.partition("/")[0].lower() in _hosts():
        return parse(f"https://{text}")
    if not re.fullmatch(rf"{_NAME}(?:@{_REVISION})?", text) or PurePosixPath(text).suffix.lower() in _FILES:
        return None
    return parse(SCHEME + text)


def _parse_place(text: str) -> Reference:
    place, asks, query = text.partition("?")
    if "#" in place:
        raise _malformed("write # as %23")
    variant = query.removeprefix("variant=") if asks else None
    if variant is not None and not (query.startswith("variant=") and re.fullmatch(WORD, variant)):
        raise _malformed("after ? only variant=… may stand, such as ?variant=fp16; write a ? in a name as %3F")
    owner, name, *path = _of_a_model(place.removesuffix("/").split("/"))
    if ":" in name:
        with_slash = _parse_place(text.replace(":", "/", 1))
        raise InvalidReference(f"not a reference to the hub: a colon stands before the file; write a slash: {with_slash}")
    name, at, revision = name.partition("@")
    return _reference(owner, name, revision if at else None, path, variant)


def _parse_address(text: str) -> Reference:
    try:
        parts = urlsplit(text)
        query = parse_qs(parts.query, max_num_fields=50)
    except ValueError as error:
        raise _malformed("it is not an address either") from error
    if not parts.scheme or not parts.netloc:
        raise _malformed("it has no hf:// before it")
    host = parts.netloc.lower().rpartition("@")[2]  # a name and a password before it are a secret, and of no use
    if parts.scheme not in ("http", "https") or host not in _hosts():
        raise InvalidReference(
            f"{host[:MAX_HOST] or 'this'} is not the Hugging Face hub, and no other host is ever contacted; download the file "
            "and submit it"
        )
    segments = _of_a_model(parts.path.strip("/").split("/"))
    owner, name, page, place = segments[0], segments[1].removesuffix(".git"), segments[2:3], segments[3:]
    if page and page[0] not in _PAGES:
        raise _malformed("it is a page without files; name the repository, or a page of a folder or a file in it")
    shown = query.get("show_file_info", [""])[0]  # the site's own view of one file, on the page of another
    path = [quote(part) for part in shown.split("/")] if shown else place[1:]
    return _reference(owner, name, place[0] if place else None, path, None)


def _of_a_model(segments: list[str]) -> list[str]:
    """Return the segments from the owner on. Raises :class:`InvalidReference` without a name, and for another kind of thing."""
    if segments[0] == "models" and len(segments) > 2:
        segments = segments[1:]
    if segments[0] in _OTHER_KINDS and len(segments) > 2:
        raise _malformed(f"it names something among the hub's {segments[0]}, which are not models")
    if len(segments) < 2:
        raise _malformed("the owner or the name is missing")
    return segments


def _reference(owner: str, name: str, revision: str | None, path: list[str], variant: str | None) -> Reference:
    """Check and decode all parts; ``path`` are the names of folders and the file, one by one."""
    if not re.fullmatch(_NAME, f"{owner}/{name}"):
        raise _malformed("the owner or the name is not one that the hub gives")
    names = [_decoded(part) for part in path]
    if not all(map(is_name, names)):
        raise _malformed("its path holds an empty or hidden name, or leads out of the repository")
    where = "/".join(names)
    if revision is not None:
        revision = _decoded(revision)
        if match := _WITH_SLASHES.match(whole := "/".join([revision, *names])):
            revision, where = match[0], whole[match.end() + 1 :]
        if not re.fullmatch(_REVISION, revision):
            raise _malformed("the revision is not a branch, tag or commit")
    return Reference(f"{owner}/{name}", revision, where, variant)


def _decoded(part: str) -> str:
    try:
        text = unquote_to_bytes(part).decode()
    except UnicodeDecodeError as error:
        raise _malformed("its escapes are not UTF-8") from error
    if _CONTROLS.search(text):
        raise _malformed("it holds a control character")
    return text


def _escaped(name: str) -> str:
    """Escape what is not plain: as bytes after %, except for characters of other scripts that can be shown."""
    return "".join(c if c in _PLAIN or (c.isprintable() and not c.isascii()) else quote(c, safe="") for c in name)


def _hosts() -> set[str]:
    """Return the hosts whose addresses name repositories: the hub's, and the mirror that is configured, if there is one."""
    try:
        mirror = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc.lower()
    except ValueError:
        mirror = ""
    return {*_HOSTS, mirror} - {""}


def _malformed(cause: str) -> InvalidReference:
    return InvalidReference(f"not a reference to the hub: {cause}; {LIKE}")
