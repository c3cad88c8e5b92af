"""Where the project's own files lie."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples"
GOLDEN = PROJECT / "tests" / "golden"
"""Files of each version of each format, for ever."""
