"""SHA-256 of what goes into an embedding or a verification."""

import hashlib
from pathlib import Path


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_path(path: Path) -> str:
    """Hex SHA-256 of a file, or of a folder: of the lines ``<sha256>  <relative path>`` of its files in sorted order."""
    if path.is_file():
        return sha256_file(path)
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    listing = "".join(f"{sha256_file(file)}  {name}\n" for name, file in files)
    return hashlib.sha256(listing.encode()).hexdigest()
