"""The report as one self-contained page for people: judges, hosts and owners. No script, no request, printable."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aiao_core.report import Report
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


def probability(log10_p: float) -> str | Markup:
    """A p-value in words that need no mathematics: 1 in 10 to the 153rd, or 0.31."""
    if log10_p > PLAIN_LIMIT:
        return f"{10**log10_p:.2g}"
    return Markup("1 in 10<sup>{:g}</sup>").format(round(-log10_p, 1) if log10_p > -20 else round(-log10_p))


_environment.filters["probability"] = probability
