"""The audit as one self-contained page for people: what the watermark withstands, and where it ends."""

from markupsafe import Markup, escape

from aiao_core.audit_report import AuditReport
from aiao_core.pages import render
from aiao_core.plots import LEFT, RIGHT, WIDTH, Plot

OUTCOMES = {"withstood": "withstood", "ended": "watermark ended", "ruined": "model ruined", "no-model": "no model to test"}
DOTS = {"withstood": "owner-dot", "ended": "ended-dot", "ruined": "ruined-dot"}

WIDEST = 100
"""Quality loss in percent at the right edge of the plot; what is ruined more is drawn there."""


def to_html(report: AuditReport) -> str:
    """The page, UTF-8. Every name in it may come from a client and is escaped."""
    names = {attack.id: attack.name for attack in report.attacks}
    return render("audit.html", report=report, names=names, outcomes=OUTCOMES, plot=proof_against_quality(report))


def proof_against_quality(report: AuditReport) -> Markup:
    """log10 p of each attacked model against its quality loss: a thief wants the lower left."""
    limit = 100 * report.max_quality_loss
    measured = [(attack, attack.measured) for attack in report.attacks if attack.measured]
    losses = [min(WIDEST, 100 * part.quality_loss) for _, part in measured]
    left = min([-5.0, *(loss - 5 for loss in losses)])
    right = max([1.5 * limit, *(loss + 5 for loss in losses)])
    strongest = min([1.5 * report.max_log10_p, report.published.test.log10_p, *(part.test.log10_p for _, part in measured)])
    plot = Plot("log10 p of each attacked model against its quality loss", (left, right), (0, 1.12 * strongest))
    plot.cell((left, limit), (0, report.max_log10_p), 0.1)
    step = 10 if right - left <= 60 else 20
    x_ticks = range(int(left // step + 1) * step, int(right) + 1, step)
    plot.axes(x_ticks, _ticks(strongest), "quality loss of the attacked model, %")
    plot.text(LEFT - 40, 11, "log10 p", "title", "start")
    plot.line([(left, report.max_log10_p), (right, report.max_log10_p)], "threshold")
    plot.line([(limit, 0), (limit, 1.12 * strongest)], "threshold")
    plot.text(plot.x(limit) - 6, 26, "useful", anchor="end")
    plot.text(plot.x(limit) + 6, 26, "ruined", anchor="start")
    plot.text(WIDTH - RIGHT - 4, plot.y(report.max_log10_p) - 5, f"match above, from {report.max_log10_p:g}", anchor="end")
    for (attack, part), loss in zip(measured, losses, strict=True):
        plot.dot(loss, part.test.log10_p, DOTS[attack.outcome], 5)
    for (attack, part), loss in zip(measured, losses, strict=True):
        if attack.outcome == "ended":
            anchor, offset = ("start", 9) if plot.x(loss) < WIDTH / 2 else ("end", -9)
            plot.text(plot.x(loss) + offset, plot.y(part.test.log10_p) + 4, escape(attack.id), "strong", anchor)
    return plot.svg()


def _ticks(strongest: float) -> list[float]:
    """Round values of log10 p from 0 down to ``strongest``."""
    step = next(step for step in (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 1e9) if -strongest / step <= 6)
    return [-step * number for number in range(int(-strongest / step) + 1)]
