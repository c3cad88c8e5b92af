"""What the command line shows: progress bars, tables, verdicts."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from aiao._client import documents
from aiao._client.documents import Job
from aiao_core import progress
from aiao_core.protocol import OLD_KEYS_VERSION, least_share

if TYPE_CHECKING:
    from aiao_core.reports.summary import Summary
    from aiao_core.reports.verification import Report


Stage = progress.Progress | documents.JobProgress
"""Where a computation stands, on this machine or in the service."""


def _console(*, stderr: bool, width: int) -> Console:
    """A console that prints text as it is: names and the service's words come from others and are no markup.

    ``width`` is for files and pipes, which have none of their own.
    """
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width_given = None if terminal else width
    return Console(stderr=stderr, width=width_given, soft_wrap=True, highlight=False, markup=False, emoji=False)


out = _console(stderr=False, width=200)
"""Results, which scripts may read."""

err = _console(stderr=True, width=120)
"""Progress and errors."""


def print_json(value: BaseModel | dict[str, Any] | list[Any]) -> None:
    """One JSON document on the standard output."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    print(json.dumps(plain, indent=1))  # noqa: T201


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)


@contextmanager
def transfer(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of bytes; the block gets the function that moves it."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err, disable=quiet) as bars:
        known: list[TaskID] = []

        def moved(done: int, total: int) -> None:
            if not known:  # no bar for what never began
                known.append(bars.add_task(label, total=total))
            bars.update(known[0], completed=done, total=total)

        yield moved


@contextmanager
def stages(label: str, *, quiet: bool = False, latest: bool = False) -> Iterator[Callable[[Stage], None]]:
    """A progress bar for each stage of a computation, or the ``latest`` alone; the block gets the function that moves them."""
    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", style="dim", markup=False),
    )
    with Progress(*columns, console=err, disable=quiet) as bars:
        known: dict[str, TaskID] = {}
        told: dict[str, int] = {}

        def show(at: Stage) -> None:
            if at.stage not in known:
                for earlier in bars.tasks:  # done; but waiting, which has no total, leaves nothing to show
                    bars.update(earlier.id, completed=earlier.total, visible=earlier.total is not None and not latest)
                known[at.stage] = bars.add_task(f"{label}: {at.stage}", total=None, metrics="")
            metrics = "  ".join(f"{name} {value:.3g}" for name, value in at.metrics.items())
            bars.update(known[at.stage], completed=at.step, total=at.total or None, metrics=metrics)
            tenth = 10 * at.step // at.total if at.total else 0
            if not (err.is_terminal or quiet) and tenth > told.get(at.stage, 0):  # a log has no moving bars, but hours to fill
                told[at.stage] = tenth
                err.print(f"{label} {at.stage} {at.step} of {at.total}  {metrics}".rstrip())

        yield show


@contextmanager
def follow(label: str, *, quiet: bool = False, latest: bool = False) -> Iterator[Callable[[Job], None]]:
    """The same for a job, which may have to wait first."""
    with stages(label, quiet=quiet, latest=latest) as show:
        show(progress.Progress("queued", 0, 0))

        def show_job(job: Job) -> None:
            if job.progress:
                done = job.progress.total if job.state == "succeeded" else job.progress.step
                show(job.progress.model_copy(update={"step": done}))

        yield show_job


STYLES = {"match": "bold green", "no-match": "bold", "base-marked": "bold yellow", "invalid": "bold red"}


def print_verdict(report: "Report | Summary") -> None:
    """The verdict, what was tested, and the figures it rests on, as far as the caller may know them."""
    from aiao_core.reports.verification import (  # here: they are slow to load, and no other command should wait for them
        UNRULED,
        Report,
    )
    from aiao_core.reports.words import OLD_KEY, WORDS, before_the_rules, sentence

    out.print(f"{WORDS[report.verdict]}: {sentence(report)}", style=STYLES.get(report.verdict, "bold magenta"))
    if isinstance(report, Report):
        old, log10_p, rows = report.version <= UNRULED, report.test.log10_p, _figures(report)
    else:  # a match without a bound is one above today's limit
        old, log10_p, rows = report.report_version <= UNRULED, report.bound_log10_p or 0.0, _coarse_figures(report)
    if old:
        for notice in before_the_rules(report.max_log10_p, log10_p, report.verdict):
            out.print(f"  from before the rules of a verdict: {notice}", style="yellow")
    if not report.bound:
        out.print(f"  the key is from before version 3: {OLD_KEY}", style="yellow")
    print_table(["figure", "value", ""], rows)


def _coarse_figures(summary: "Summary") -> list[list[str]]:
    bound = "none" if summary.bound_log10_p is None else f"10^{summary.bound_log10_p:.1f}"
    rows = [["bound of the probability", bound, "coarse: the full report is for the key's owner"]]
    if summary.tests:
        rows.append(["tests", f"{summary.tests.with_key} with this key, {summary.tests.of_file} of these weights", ""])
    return rows


def _share_needed(report: "Report") -> str:
    share = least_share(report.protocol or OLD_KEYS_VERSION)
    return f"match at or above {share:.1%}" if share else ""


def _figures(report: "Report") -> list[list[str]]:
    vs, rs, test = report.vs_rate, report.rs_rate, report.test
    best_decoy = min((decoy.log10_p for decoy in report.decoys), default=0.0)
    rows = [
        ["log10 p", f"{test.log10_p:.2f}", f"match at or below {report.max_log10_p:.5g}; claimed {report.claimed_log10_p:.2f}"],
        ["matching bits", f"{test.matches} of {test.bits}", _share_needed(report)],
        ["VS-rate", f"{vs.value:.3f}", f"95 % interval {vs.low:.3f} to {vs.high:.3f}"],
        ["RS-rate", f"{rs.value:.3f}", f"95 % interval {rs.low:.3f} to {rs.high:.3f}"],
        ["without the trigger", f"{report.untriggered.log10_p:.2f}", "not a part of the verdict"],
        [f"best of {len(report.decoys)} decoy keys", f"{best_decoy:.2f}", "control"],
    ]
    if report.verified_subpaths is not None:
        rows.insert(
            4, ["subpaths that verify", f"{report.verified_subpaths} of {len(report.subpaths)}", "one in 1,000 by chance"]
        )
    if report.source_test:
        rows.append(["the key on the source", f"{report.source_test.log10_p:.2f}", "control"])
    if report.base_test:
        rows.append(["the key on the base alone", f"{report.base_test.log10_p:.2f}", "control"])
    if report.tests:
        counted = f"{report.tests.with_key} with this key, {report.tests.of_file} of these weights"
        rows.append(["tests", counted, f"log10 of p times these {report.corrected_log10_p:.2f}"])
    return [*rows, ["seed", str(report.seed), ""]]
