"""Results as JSON lines: each with the configuration that it is the result of, and found again by it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Configuration = dict[str, Any]


@dataclass(frozen=True)
class Run:
    configuration: Configuration
    result: dict[str, Any]
    seconds: float
    machine: str = "a CPU core, torch 2.13.0+cpu"
    """What computed it, by :func:`this_machine`; the first runs did not note it."""


def this_machine() -> str:
    """What a run of this process computes on, for people."""
    return f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'a CPU core'}, torch {torch.__version__}"


class Store:
    """A file of runs, for one process; a line that a crash left half-written is skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, Run] = {}
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                run = Run(**json.loads(line))
            except ValueError:
                continue
            self.runs[_canonical(run.configuration)] = run

    def __contains__(self, configuration: Configuration) -> bool:
        return _canonical(configuration) in self.runs

    def keep(self, plan: Iterable[Configuration]) -> None:
        """Forget the runs that ``plan`` lacks, as those of an earlier revision. The file still has them."""
        wanted = {_canonical(each) for each in plan}
        self.runs = {name: run for name, run in self.runs.items() if name in wanted}

    def add(self, run: Run) -> None:
        line = json.dumps(vars(run))
        # As it will be read again: JSON has no keys but text.
        self.runs[_canonical(run.configuration)] = Run(**json.loads(line))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as file:
            file.write("\n" * cut_off)
            file.write(line + "\n")

    def of(self, **wanted: Any) -> list[Run]:
        """The runs whose configuration has all of ``wanted``."""
        return [run for run in self.runs.values() if wanted.items() <= run.configuration.items()]

    def done(self, **wanted: Any) -> list[Run]:
        """Those of them that have figures, and not a reason why there are none."""
        return [run for run in self.of(**wanted) if "reason" not in run.result]


def _canonical(configuration: Configuration) -> str:
    return json.dumps(configuration, sort_keys=True)
