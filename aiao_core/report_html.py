"""The report as one self-contained page for people: judges, hosts and owners. No script, no request, printable."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from aiao_core.report import BitTest, Report
from aiao_core.report_plots import bits_against_chance, decoys_against_owner, rate_against_depth

PLAIN_LIMIT = -4
"""Above this log10 a probability is written as a plain number."""

_environment = Environment(
    loader=PackageLoader("aiao_core"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def to_html(report: Report) -> str:
    """The page, UTF-8. Every name in it comes from a client and is escaped."""
    plots = {
        "bits": bits_against_chance(report),
        "depth": rate_against_depth(report),
        "decoys": decoys_against_owner(report),
    }
    return _environment.get_template("report.html").render(report=report, plots=plots)


def probability(test: BitTest) -> str:
    """The p-value in words that need no mathematics: ``1 in 10^153``, ``0.31``."""
    if test.log10_p > PLAIN_LIMIT:
        return f"{10**test.log10_p:.2g}"
    return f"1 in 10^{-test.log10_p:.0f}"


_environment.filters["probability"] = probability
