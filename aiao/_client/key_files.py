"""The owner's key on the owner's disk: a file that only its user can read, and that is never overwritten."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiao._client.documents import read
from aiao._client.errors import ClientError
from aiao_core.errors import InvalidKey
from aiao_core.key import OwnerKey, PublicKey, decode_secret, encode_secret

SAVED_SECRET = "aiao.secret"  # noqa: S105
"""Format of a file that holds the secret alone, until the embedding has chosen the key's layers."""


def check_free(path: Path) -> None:
    """Raise :class:`ClientError` if there is a file already, perhaps the only copy of another key, or none can be made."""
    if os.path.lexists(path):
        raise ClientError(f"{path} exists and is not overwritten; name another file")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise ClientError(f"{path.parent} is not a folder that you can write to; name another file")
    try:
        _write(path, "")  # a try is the only sure test, and a secret that cannot be saved later is lost
        path.unlink()
    except OSError as error:
        raise ClientError(f"{path} cannot be written ({error.strerror}); name another file") from error


def save_secret(path: Path, secret: str, model_id: str) -> None:
    """Save the secret, as soon as the service has shown it."""
    _write(path, json.dumps({"format": SAVED_SECRET, "secret": secret, "model_id": model_id}, indent=1) + "\n")


def save_key(path: Path, key: OwnerKey) -> None:
    """Save a whole key. Raises :class:`ClientError` as :func:`check_free` does."""
    check_free(path)
    _write(path, key.to_json())


def complete(path: Path, public_key: Callable[[str], dict[str, Any]]) -> OwnerKey:
    """Turn a saved secret into the whole key file, once the embedding has chosen its layers.

    ``public_key`` returns the public part of a model's key, by the model's identifier, as ``client.models.public_key`` does.
    """
    document = _secret_document(path)
    public = read(PublicKey, public_key(document["model_id"]))
    key = OwnerKey.from_public(public, document["secret"])
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    _write(partial, key.to_json())
    partial.replace(path)
    return key


def load_key(path: Path) -> OwnerKey:
    """Read a whole key file. Raises :class:`InvalidKey` with what to do."""
    text = _read(path)
    if f'"{SAVED_SECRET}"' in text:
        raise InvalidKey(f"{path} holds the secret alone; once the embedding is done, run: aiao key complete {path}")
    return OwnerKey.from_json(text)


def load_seed(path: Path) -> bytes:
    """Return the checked seed of a key file, of a saved secret or of a text file with a printable secret."""
    text = _read(path)
    if not text.lstrip().startswith("{"):
        return decode_secret(text)
    if f'"{SAVED_SECRET}"' in text:
        return decode_secret(_secret_document(path)["secret"])
    return OwnerKey.from_json(text).seed


def secret_of(path: Path | None) -> str | None:
    """Return the printable secret of a file as :func:`load_seed` reads it, for a service that does not keep the key."""
    return None if path is None else encode_secret(load_seed(path))


def _secret_document(path: Path) -> dict[str, str]:
    try:
        document = json.loads(_read(path))
        if document["format"] != SAVED_SECRET:
            raise InvalidKey(f"{path} is not a saved secret; a key file that is complete needs nothing more")
        return {"secret": str(document["secret"]), "model_id": str(document["model_id"])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidKey(f"{path} is damaged; restore it from a copy") from error


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")  # some editors write the mark
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidKey(f"{path} cannot be read: {error}") from error


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
