"""Reports as files: a page or JSON, by the file's name."""

from collections.abc import Callable
from pathlib import Path

from aiao._client.errors import ClientError
from aiao._client.output_files import check_output, output


def check_report_file(file: Path, *, force: bool = False) -> None:
    """Raise :class:`ClientError` for a place where no report can be saved, before the work that makes one.

    A file that exists is such a place without ``force``, and a key file always.
    """
    if file.suffix not in (".html", ".json"):
        raise ClientError(f"{file} is neither .html nor .json; the report can be saved as these")
    check_output(file, force=force)


def save_report(file: Path, page: Callable[[], str], json: Callable[[], str], *, force: bool = False) -> None:
    """Write the report in the form that ``file``'s suffix names, under the conditions of :func:`check_report_file`."""
    text = page() if file.suffix == ".html" else json()
    with output(file, force=force) as opened:
        opened.write(text.encode())
