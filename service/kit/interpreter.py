"""Flaws of the Python that runs this, which the operator can only end by another one."""

import sys

FIXED = {(3, 11): (3, 11, 10), (3, 12): (3, 12, 6)}
"""By minor version: the first release in which ``tarfile`` reads a header in time proportional to its length."""


def flaws(version: tuple[int, ...] = sys.version_info[:3]) -> list[str]:
    """Return what is wrong with this version, in words for the operator."""
    fixed = FIXED.get(version[:2], version)
    if version >= fixed:
        return []
    name = ".".join(map(str, version))
    return [
        f"Python {name} has CVE-2024-6232: a small TAR archive can keep it busy for minutes. Uploads and models are read in "
        f"processes with a time limit, but use Python {'.'.join(map(str, fixed))} or newer"
    ]
