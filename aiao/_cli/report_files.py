"""Reports as files, and a line that says so."""

from collections.abc import Callable
from pathlib import Path

from aiao._cli.display import err
from aiao._client import report_files


def save_report(file: Path, page: Callable[[], str], json: Callable[[], str], *, force: bool = False) -> None:
    """Save a report as :func:`aiao._client.report_files.save_report` does, and print where it is."""
    report_files.save_report(file, page, json, force=force)
    err.print(f"Report saved to {file}")
