"""What the command line shows: progress bars, tables, verdicts."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from aiao_core.report import Report
from client.documents import Job

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
"""Results, which scripts may read."""

err = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else 120)
"""Progress and errors."""


def print_json(value: BaseModel | dict[str, Any] | list[Any]) -> None:
    """One JSON document on the standard output."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    print(json.dumps(plain, indent=1))  # noqa: T201


def print_table(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)


@contextmanager
def transfer(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of bytes; the block gets the function that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err, disable=quiet) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


@contextmanager
def follow(label: str, *, quiet: bool = False) -> Iterator[Callable[[Job], None]]:
    """A progress bar for each stage of a job; the block gets the function that moves them."""
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", style="dim"),
    )
    with Progress(*columns, console=err, disable=quiet) as bars:
        stages: dict[str, Any] = {}
        waiting = bars.add_task(f"{label}: queued", total=None, metrics="")

        def show(job: Job) -> None:
            if job.state != "queued":
                bars.update(waiting, visible=False)
            if job.progress is None:
                return
            stage, total = job.progress.stage, job.progress.total
            if stage not in stages:
                for earlier in stages.values():
                    bars.update(earlier, completed=bars.tasks[earlier].total)
                stages[stage] = bars.add_task(f"{label}: {stage}", total=total, metrics="")
            metrics = "  ".join(f"{name} {value:.3g}" for name, value in job.progress.metrics.items())
            done = total if job.state == "succeeded" else job.progress.step
            bars.update(stages[stage], completed=done, total=total, metrics=metrics)

        yield show


def print_verdict(report: Report) -> None:
    """The verdict and the figures it rests on."""
    found = report.verdict == "match"
    out.print(
        "[bold green]MATCH[/]: the suspect carries the owner's watermark" if found
        else "[bold]NO MATCH[/]: the owner's watermark was not found in the suspect"
    )  # fmt: skip
    vs, rs, test = report.vs_rate, report.rs_rate, report.test
    best_decoy = min((decoy.log10_p for decoy in report.decoys), default=0.0)
    print_table(
        ["figure", "value", "95 % interval"],
        [
            ["log10 p (exact)", f"{test.log10_p:.2f}", f"match at or below {report.max_log10_p:g}"],
            ["matching bits", f"{test.matches} of {test.bits}", ""],
            ["VS-rate", f"{vs.value:.3f}", f"{vs.low:.3f} to {vs.high:.3f}"],
            ["RS-rate", f"{rs.value:.3f}", f"{rs.low:.3f} to {rs.high:.3f}"],
            ["without the trigger", f"{report.untriggered.log10_p:.2f}", "control"],
            [f"best of {len(report.decoys)} decoy keys", f"{best_decoy:.2f}", "control"],
            ["seed", str(report.seed), ""],
        ],
    )
