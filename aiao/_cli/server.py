"""The programs of ``aiao-server``. This package knows them by name alone and runs each in a process of its own."""

import sys
from importlib.util import find_spec

from aiao._client.errors import ClientError


def python_module(module: str, *arguments: str, install: str) -> list[str]:
    """Return the command that runs ``module``; raise :class:`ClientError` naming what to ``install`` if it is missing.

    ``-P`` keeps the working folder off Python's path: the user's own ``service/`` or ``worker.py`` there is not ours.
    """
    if not _is_installed(module):
        raise ClientError(f"this command needs aiao-server, not installed here; run: pip install {install}")
    return [sys.executable, "-P", "-m", module, *arguments]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that holds it
        return False
