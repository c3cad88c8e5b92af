"""Files that are written where the user says: never over a key file, and over another file only if told to."""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path

from aiao._client.errors import ClientError
from aiao._client.key_files import SAVED_SECRET
from aiao_core.key import PREFIX

OWNER_KEY = "aiao.owner-key"

KEY_FILE_BYTES = 64 << 20
"""Bytes that are searched, more than any key file has: a checkpoint of gigabytes is not read to its end first."""

_PREFIX = PREFIX.encode()
_KEY = re.compile(
    b"|".join(
        (
            rb'"format":"(?:%b|%b)"' % (re.escape(OWNER_KEY.encode()), re.escape(SAVED_SECRET.encode())),
            # In one case, as a secret is printed or typed: base64, as of a page's images, has both and comes close by chance.
            rb"%b[a-z2-7]{20}" % _PREFIX,
            rb"%b[A-Z2-7]{20}" % _PREFIX.upper(),
            rb"\A[\x80-\xff]*(?i:%b)" % _PREFIX,  # after the mark that some editors write
        )
    )
)


def is_key_file(file: Path) -> bool:
    """Return whether it holds a key, a saved secret or a printable secret, even a damaged one. Links are followed."""
    try:
        if not file.is_file():
            return False
        with file.open("rb") as opened:
            content = opened.read(KEY_FILE_BYTES)
    except OSError as error:
        raise ClientError(f"{file} cannot be read ({error.strerror}), so it may be a key file; name another file") from error
    # Without white space, which a secret and JSON may have anywhere, and without what UTF-16 puts between letters.
    return _KEY.search(content.translate(None, delete=b" \t\r\n\v\f\0")) is not None


def check_output(file: Path, *, force: bool) -> None:
    """Raise :class:`ClientError` for a place where nothing can be saved, before the work whose result goes there."""
    if not file.parent.is_dir():
        raise ClientError(f"{file.parent} is not a folder; name a file in a folder that exists")
    try:
        _check_free(file, force=force)
        partial = _beside(file, ".partial")
        partial.open("xb").close()  # a try is the only sure test
        partial.unlink()
    except OSError as error:
        raise ClientError(f"{file} cannot be written ({error.strerror}); name another file") from error


@contextmanager
def output(file: Path, *, force: bool) -> Iterator[BufferedWriter]:
    """Open a new file for the block to write, which takes the place of ``file`` when the block ends well.

    If a file that must stay has appeared at the place meanwhile, the new one is kept beside it, and a :class:`ClientError` says
    where: it may be the result of hours.
    """
    partial = _beside(file, ".partial")
    opened = partial.open("xb")
    try:
        with opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())  # or a loss of power could leave the name with nothing in it
        _put(partial, file, force=force)
    finally:
        partial.unlink(missing_ok=True)


def _check_free(file: Path, *, force: bool) -> None:
    """Raise :class:`ClientError` for what must not be replaced."""
    try:
        file.lstat()
    except FileNotFoundError:
        return
    if file.is_dir():
        raise ClientError(f"{file} is a folder; name a file")
    if is_key_file(file):
        raise ClientError(f"{file} is a key file, perhaps the only copy; it is never overwritten, so name another file")
    if not force:
        raise ClientError(f"{file} exists; name another file, or replace it with --force (in Python overwrite=True)")
    if file.exists() and not file.is_file():
        raise ClientError(f"{file} is a device or a pipe and is not replaced; name a file")


def _put(partial: Path, file: Path, *, force: bool) -> None:
    """Give ``partial`` the name ``file``, after a second look at what has that name now."""
    try:
        _check_free(file, force=force)
        if force:
            with suppress(OSError):  # there is none yet
                partial.chmod(stat.S_IMODE(file.stat().st_mode))
            partial.replace(file)  # of a link, this takes the place, and leaves alone what the link leads to
        else:
            _link(partial, file)
    except (ClientError, FileExistsError) as error:
        kept = _beside(file, file.suffix)
        partial.rename(kept)
        raise ClientError(f"{file} appeared meanwhile and is not overwritten; the result is saved as {kept}") from error


def _link(partial: Path, file: Path) -> None:
    """Give ``partial`` the name ``file`` too. Raises :class:`FileExistsError` if anything has that name, whenever it came."""
    try:
        os.link(partial, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name first, then put the file there
        file.open("xb").close()
        partial.replace(file)


def _beside(file: Path, suffix: str) -> Path:
    """Return an unused name in the same folder. It is cut: the longest name that a file can have leaves no room for more."""
    return file.with_name(f"{file.stem[:40]}-{secrets.token_hex(4)}{suffix}")
