"""Reports as files: a page or JSON, by the file's name."""

from collections.abc import Callable
from pathlib import Path

from client.display import err
from client.errors import ClientError


def check_report_file(file: Path) -> None:
    """Raise :class:`ClientError` for a place where no report can be saved, before the work that makes one."""
    if file.suffix not in (".html", ".json"):
        raise ClientError(f"{file} is neither .html nor .json; the report can be saved as these")
    if not file.parent.is_dir():
        raise ClientError(f"{file.parent} is no folder; name a place for the report that exists")


def save_report(file: Path, page: Callable[[], str], json: Callable[[], str]) -> None:
    """Write the report in the form that ``file``'s suffix names."""
    file.write_text(page() if file.suffix == ".html" else json(), encoding="utf-8")
    err.print(f"Report saved to {file}")
