"""Folders in which people keep models: which of their files count, and where a model's own folder is in them. Torch-free."""

from collections.abc import Iterator
from pathlib import Path

from aiao_core.errors import InvalidCheckpoint

MAX_REVISION_CHARACTERS = 128
"""Of the name of a revision, in a cache of the hub."""

CACHE = "models--"
"""How the folder of a repository begins in a cache of the hub."""


def is_note_of_a_system(name: str) -> bool:
    """Return whether macOS or Windows keeps notes of its own in a file of this name, in or beside a folder of other files."""
    *folders, last = name.rstrip("/").split("/")
    return "__MACOSX" in (*folders, last) or last.startswith("._") or last in (".DS_Store", "Thumbs.db", "desktop.ini")


def files_in(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of the folders in it, but for hidden ones and notes of an operating system."""
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if not is_note_of_a_system(name) and not any(part.startswith(".") for part in name.split("/")[:-1]) and file.is_file():
            yield file


def model_root(folder: Path) -> Path:
    """Return the folder of the model: of a cache of the hub the revision that it names, otherwise ``folder`` itself.

    Raises :class:`InvalidCheckpoint` for a cache with several revisions that says of none that it is the current one.
    """
    inside = {inner.name for inner in folder.iterdir() if inner.name[0] != "."} - {"version.txt"}
    if len(inside) == 1 and (only := folder / next(iter(inside))).name.startswith(CACHE) and only.is_dir():
        return model_root(only)
    is_cache = inside <= {"blobs", "refs", "snapshots"} and (len(inside) > 1 or folder.name.startswith(CACHE))
    if not (is_cache and (folder / "snapshots").is_dir()):
        return folder
    revisions = sorted(inner for inner in (folder / "snapshots").iterdir() if inner.is_dir())
    current = [inner for inner in revisions if inner.name == _named_revision(folder / "refs" / "main")]
    if len(current or revisions) > 1:
        names = ", ".join(inner.name[:MAX_REVISION_CHARACTERS] for inner in revisions[:5])
        raise InvalidCheckpoint(
            f"{folder.name} is a cache of the hub with several revisions ({names}); submit the folder of one"
        )
    return (current or revisions or [folder])[0]


def _named_revision(reference: Path) -> str | None:
    try:
        with reference.open("rb") as file:
            return file.read(MAX_REVISION_CHARACTERS).decode("utf-8", "replace").strip()
    except OSError:
        return None
