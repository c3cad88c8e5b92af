"""The report's plots."""

import math

from markupsafe import Markup

from aiao_core.protocol import OLD_KEYS_VERSION, least_share
from aiao_core.reports.plots import RIGHT, WIDTH, Plot
from aiao_core.reports.verification import Report
from aiao_core.statistics import log10_binomial_tail


def bits_against_chance(report: Report) -> Markup:
    """Plot the number of matching bits against chance: the binomial distribution that the exact test uses."""
    bits, matches = report.test.bits, report.test.matches
    center, spread = bits / 2, math.sqrt(max(bits, 1)) / 2
    low, high = min(0.40 * bits, center - 4.5 * spread, 0.97 * matches), max(bits, 1) * 1.0
    plot = Plot("Matching bits against chance", (low, high), (0, 1.15))
    plot.axes([round(low + (high - low) * part / 5) for part in range(6)], [], "matching bits")
    curve = [
        (low + (high - low) * step / 400, math.exp(-0.5 * ((low + (high - low) * step / 400 - center) / spread) ** 2))
        for step in range(401)
    ]
    plot.line([(low, 0), *curve, (high, 0)], "chance")
    plot.line([(low, 0), (high, 0)], "axis")
    needed = _bits_for(report)
    plot.line([(needed, 0), (needed, 0.62)], "threshold")
    plot.text(plot.x(needed) + 6, plot.y(0.55), f"match from {needed}", anchor="start")
    plot.text(plot.x(center), plot.y(1.05), "by chance")
    plot.line([(matches, 0), (matches, 0.82)], "owner")
    plot.dot(matches, 0.82, "owner-dot", 6)
    anchor = "end" if matches > (low + high) / 2 else "start"
    offset = -12 if anchor == "end" else 12
    plot.text(plot.x(matches) + offset, plot.y(0.82) + 4, f"this suspect: {matches} of {bits}", "strong", anchor)
    return plot.svg()


def rate_against_depth(report: Report) -> Markup:
    """Plot the response success of each subpath against the number of key layers between trigger and response."""
    deepest = max((path.response - path.trigger for path in report.subpaths), default=1)
    plot = Plot("Response success of each subpath against its depth", (0, deepest + 1), (0, 1.04))
    step = max(1, deepest // 6)
    plot.axes(
        range(step, deepest + 1, step), (0, 0.25, 0.5, 0.75, 1), "depth: key layers from trigger to response", percent=True
    )
    plot.line([(0, 0.5), (deepest + 1, 0.5)], "threshold")
    plot.text(WIDTH - RIGHT - 4, plot.y(0.5) + 15, "chance", anchor="end")
    for path in report.subpaths:
        plot.dot(path.response - path.trigger, path.rs, "subpath", 3.5)
    return plot.svg()


def decoys_against_owner(report: Report) -> Markup:
    """Plot log10 p of the owner's key and of decoy keys on the same suspect."""
    lowest = min(report.test.log10_p, report.max_log10_p, *(decoy.log10_p for decoy in report.decoys), -10)
    plot = Plot("log10 p of the owner's key and of decoy keys", (lowest * 1.06, 1), (0, 1))
    step = 10 ** math.floor(math.log10(-lowest))
    step = step if -lowest / step >= 3 else step / 2
    plot.axes([step * number for number in range(-int(-lowest / step), 1)], [], "log10 of the p-value (left is stronger)")
    plot.line([(lowest * 1.06, 0), (1, 0)], "axis")
    plot.line([(report.max_log10_p, 0), (report.max_log10_p, 0.9)], "threshold")
    plot.text(plot.x(report.max_log10_p) - 6, plot.y(0.84), "match", anchor="end")
    for number, decoy in enumerate(report.decoys):
        plot.dot(decoy.log10_p, 0.08 + 0.6 * number / max(1, len(report.decoys) - 1), "decoy", 4)
    plot.dot(report.test.log10_p, 0.4, "owner-dot", 7)
    right_half = plot.x(report.test.log10_p) > WIDTH / 2
    anchor, offset = ("end", -12) if right_half else ("start", 12)
    plot.text(plot.x(report.test.log10_p) + offset, plot.y(0.4) + 4, "the owner's key", "strong", anchor)
    return plot.svg()


def _bits_for(report: Report) -> int:
    """Return the least number of matching bits that is a match: where the exact tail falls to the threshold, or the share."""
    bits = report.test.bits
    low, high = max(bits // 2, math.ceil(least_share(report.protocol or OLD_KEYS_VERSION) * bits)), bits + 1
    while low < high:
        middle = (low + high) // 2
        if middle > bits or log10_binomial_tail(middle, bits, report.test.best_of) <= report.max_log10_p:
            high = middle
        else:
            low = middle + 1
    return low
