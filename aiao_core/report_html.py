"""The report as one self-contained page for people: judges, hosts and owners."""

from aiao_core.pages import render
from aiao_core.report import Report
from aiao_core.report_plots import bits_against_chance, decoys_against_owner, rate_against_depth


def to_html(report: Report) -> str:
    """The page, UTF-8. Every name in it comes from a client and is escaped."""
    plots = {
        "bits": bits_against_chance(report),
        "depth": rate_against_depth(report),
        "decoys": decoys_against_owner(report),
    }
    return render("report.html", report=report, plots=plots)
