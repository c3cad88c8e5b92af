"""The audit as one self-contained page for people: the attacks that the watermark withstands, and its limits."""

from markupsafe import Markup

from aiao_core.reports.audit import FORGING, AttackResult, AuditReport
from aiao_core.reports.pages import render
from aiao_core.reports.plots import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH, Plot
from aiao_core.reports.words import OLD_KEY

OUTCOMES = {"withstood": "withstood", "ended": "watermark ended", "ruined": "model ruined", "no-model": "no model to test"}
OF_FORGERIES = OUTCOMES | {"withstood": "withstood: no match", "ended": "watermark forged"}
DOTS = {"withstood": "owner-dot", "ended": "ended-dot", "ruined": "ruined-dot"}

HEADROOM = 1.3
"""Distance of the strongest proof from the top, which has room for words."""

WIDEST = 60
"""Quality loss in percent at the right edge of the plot; models with a larger loss are drawn there."""


def to_html(report: AuditReport) -> str:
    """Render the page, UTF-8. Every name in it may come from a client and is escaped."""
    names = {attack.id: attack.name for attack in report.attacks}
    plot, old_key = proof_against_quality(report), None if report.bound else OLD_KEY
    return render("audit.html", report=report, names=names, label=_label, plot=plot, old_key=old_key)


def _label(attack: AttackResult) -> str:
    return (OF_FORGERIES if attack.family == FORGING else OUTCOMES)[attack.outcome]


def proof_against_quality(report: AuditReport) -> Markup:
    """Plot log10 p of each attacked model against its quality loss: a thief wants the lower left."""
    limit, threshold = 100 * report.max_quality_loss, report.max_log10_p
    dots = [
        (min(WIDEST, 100 * measured.quality_loss), measured.test.log10_p, DOTS[attack.outcome])
        for attack in report.attacks
        if (measured := attack.measured) and attack.family != FORGING
    ]
    left = min([-5, *(loss - 5 for loss, _, _ in dots)])
    right = max([1.5 * limit, *(loss + 5 for loss, _, _ in dots)])
    strongest = min([1.5 * threshold, *(log10_p for _, log10_p, _ in dots)])
    top = HEADROOM * strongest
    plot = Plot("log10 p of each attacked model against its quality loss", (left, right), (0, top))
    plot.cell((left, limit), (0, threshold), 0.12)
    ticks = range(-10 * int(-left // 10), min(int(right) + 1, WIDEST), 10)
    plot.axes(ticks, _ticks(strongest), "quality loss of the attacked model, %")
    if right > WIDEST:
        plot.text(plot.x(WIDEST), HEIGHT - BOTTOM + 18, f"{WIDEST}+")
    plot.line([(left, threshold), (right, threshold)], "threshold")
    plot.line([(limit, 0), (limit, top)], "threshold")
    plot.text(4, TOP + 6, "log10 p", "title", "start")
    plot.text(plot.x(limit) - 7, TOP + 6, "useful", anchor="end")
    plot.text(plot.x(limit) + 7, TOP + 6, "ruined", anchor="start")
    plot.text(WIDTH - RIGHT - 4, plot.y(threshold) - 6, "match above", anchor="end")
    for loss, log10_p, style in dots:
        plot.dot(loss, log10_p, style, 5)
    return plot.svg()


def _ticks(strongest: float) -> list[float]:
    """List round values of log10 p from 0 down to ``strongest``."""
    step = next(step for step in (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 1e9) if -strongest / step <= 6)
    return [-step * number for number in range(int(-strongest / step) + 1)]
