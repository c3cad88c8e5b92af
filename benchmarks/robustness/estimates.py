"""Figures over several runs, each with an interval of 95 % and the number of runs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from aiao_core.statistics import clopper_pearson


@dataclass(frozen=True)
class Figure:
    """A value over ``runs`` runs; without an interval where a single run says nothing about others."""

    value: float
    runs: int
    low: float | None = None
    high: float | None = None

    def text(self, form: str = ".2f") -> str:
        """For a table: ``0.98 [0.95, 1.00]``."""
        interval = "" if self.low is None else f" [{self.low:{form}}, {self.high:{form}}]"
        return signed(f"{self.value:{form}}{interval}")


def signed(text: str) -> str:
    """Numbers with true minus signs, which a line break does not part."""
    return text.replace("-", "\N{MINUS SIGN}")


def share(hits: int, runs: int) -> Figure:
    """Of the runs, with the interval of Clopper and Pearson."""
    return Figure(hits / runs, runs, *clopper_pearson(hits, runs))


def mean(
    values: Sequence[float], *, single: Sequence[float] | None = None, bounds: tuple[float, float] | None = None
) -> Figure:
    """With Student's interval over the runs, cut at ``bounds``; of one run with the interval ``single`` that it came with."""
    value, runs = statistics.mean(values), len(values)
    if runs == 1:
        return Figure(value, 1, *(single or ()))
    low, high = bounds or (-math.inf, math.inf)
    margin = float(stats.t.ppf(0.975, runs - 1)) * statistics.stdev(values) / math.sqrt(runs)
    return Figure(value, runs, max(low, value - margin), min(high, value + margin))


def rate(found: Sequence[dict], name: str = "rate", interval: str = "interval") -> Figure:
    """A share of what was found in several models: VS, RS or a rival's own figure."""
    return mean([each[name] for each in found], single=found[0].get(interval), bounds=(0, 1))


def strength(found: Sequence[dict]) -> Figure:
    """Mean log10 p."""
    return mean([each["log10_p"] for each in found], bounds=(-math.inf, 0))
