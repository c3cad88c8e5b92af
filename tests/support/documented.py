"""The examples of the package's documentation."""

import textwrap
from itertools import groupby

import aiao


def examples() -> list[str]:
    """The indented blocks of the package's docstring, as programs."""
    lines = (aiao.__doc__ or "").splitlines()
    blocks = [list(group) for code, group in groupby(lines, lambda line: not line or line.startswith("    ")) if code]
    return [program for block in blocks if (program := textwrap.dedent("\n".join(block)).strip())]
