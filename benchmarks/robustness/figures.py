"""The page's figures, as the paper draws them."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from aiao_core.reports.plots import HEIGHT, RIGHT, TOP, WIDTH, Plot
from benchmarks.robustness.estimates import Figure

Curve = Sequence[tuple[float, float]]
STYLES = ("first", "second", "third", "fourth", "fifth", "sixth")
"""Of the page: :data:`STYLES` ``[0]`` is AIAO's."""

MAX_LOSS = 1.0
"""Right end of the attacks' figure: beyond it every model is equally worthless."""


def erasure(curves: Mapping[str, Sequence[tuple[int, Figure]]]) -> Markup:
    """Fig. 1: what each method's owner still finds after so many steps of fine-tuning."""
    last = max(steps for points in curves.values() for steps, _ in points)
    plot = Plot("Rate that each owner finds against steps of fine-tuning", (0, last), (0, 1.04))
    plot.axes(range(0, last + 1, 100), (0, 0.25, 0.5, 0.75, 1), "steps of fine-tuning", percent=True)
    for style, points in reversed(list(zip(STYLES, curves.values(), strict=False))):  # AIAO is drawn last, above the others
        for steps, figure in points:
            if figure.low is not None and figure.high is not None:
                plot.line([(steps, figure.low), (steps, figure.high)], style)
            plot.dot(steps, figure.value, f"{style}-dot", 3)
        plot.line([(steps, figure.value) for steps, figure in points], style)
    _legend(plot, list(curves))
    return plot.svg()


def detection(curves: Mapping[str, Curve]) -> Markup:
    """Share of the marked models that are recognised, against the probability of a false accusation, both exact."""
    plot = Plot("Share of marked models recognised against the probability of a false accusation", (-12, 0), (0, 1.04))
    plot.axes(range(-12, 1, 3), (0, 0.25, 0.5, 0.75, 1), "log10 of the probability of a false accusation", percent=True)
    for level in (-9, -6):
        plot.line([(level, 0), (level, 1)], "threshold")
    for style, curve in reversed(list(zip(STYLES, curves.values(), strict=False))):
        plot.line(curve, style)
    _legend(plot, list(curves))
    return plot.svg()


def attacks(points: Sequence[tuple[float, float, str]], limit: float, aim: float) -> Markup:
    """Each attack by what it costs (quality loss) and what it leaves (log10 p, the weakest run), with its outcome as style."""
    lowest = min(strength for _, strength, _ in points) * 1.08
    plot = Plot("What each attack leaves of the watermark against what it costs", (0, MAX_LOSS), (lowest, 4))
    ticks = range(0, int(lowest), -50)
    plot.axes(
        (0, 0.2, 0.4, 0.6, 0.8, 1), ticks, "quality loss (1 and more at the right edge); upwards log10 p, lower is stronger"
    )
    plot.line([(limit, lowest), (limit, 4)], "threshold")
    plot.line([(0, aim), (MAX_LOSS, aim)], "threshold")
    plot.text(plot.x(limit) + 6, plot.y(aim) + 16, "no longer useful", anchor="start")
    for cost, strength, style in points:
        plot.dot(min(max(cost, 0), MAX_LOSS), strength, style, 4)
    return plot.svg()


def spread(rows: Sequence[Mapping[str, float]]) -> Markup:
    """Standard deviation of VS-rate against the number of draws."""
    highest = max(row["vs_deviation"] for row in rows)
    plot = Plot("Spread of VS-rate against the number of draws", (0, rows[-1]["draws"]), (0, max(0.01, highest * 1.1)))
    ticks = [round(highest * part / 3, 3) for part in range(4)] if highest else [0, 0.01]
    plot.axes([row["draws"] for row in rows if row["draws"] >= 50], ticks, "draws of one verification")
    points = [(row["draws"], row["vs_deviation"]) for row in rows]
    plot.line(points, "first")
    for x, y in points:
        plot.dot(x, y, "first-dot", 3)
    plot.text(WIDTH - RIGHT - 4, TOP + 12, "standard deviation of VS-rate", "first-text", "end")
    return plot.svg()


def _legend(plot: Plot, names: Sequence[str]) -> None:
    """The curves' names in their colours, in the lower left corner."""
    start = HEIGHT - 52 - 16 * (len(names) - 1)
    for row, (style, name) in enumerate(zip(STYLES, names, strict=False)):
        plot.text(56, start + 16 * row, name, f"{style}-text", "start")
