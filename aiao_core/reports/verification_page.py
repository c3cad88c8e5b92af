"""The report as one self-contained page for people: judges, hosts and owners."""

from aiao_core.protocol import CONTROL_LOG10_P, LEAST_SHARE
from aiao_core.reports.pages import render
from aiao_core.reports.summary import Summary
from aiao_core.reports.verification import UNRULED, Report
from aiao_core.reports.verification_plots import bits_against_chance, decoys_against_owner, rate_against_depth
from aiao_core.reports.words import ALTERNATIVES, MEANING, NO_SOURCE, OLD_KEY, before_the_rules, headline, subject


def to_html(report: Report) -> str:
    """Render the page, UTF-8. Every name in it comes from a client and is escaped."""
    plots = {
        "bits": bits_against_chance(report),
        "depth": rate_against_depth(report),
        "decoys": decoys_against_owner(report),
    }
    old = report.version <= UNRULED
    return render(
        "report.html",
        report=report,
        plots=plots,
        subject=subject(report),
        headline=headline(report),
        meaning=MEANING,
        alternatives=ALTERNATIVES,
        old_key=None if report.bound else OLD_KEY,
        no_source=NO_SOURCE,
        control_limit=CONTROL_LOG10_P,
        least_share=LEAST_SHARE,
        notices=before_the_rules(report.max_log10_p, report.test.log10_p, report.verdict) if old else [],
    )


def summary_to_html(summary: Summary) -> str:
    """Render the summary for callers who neither own nor hold the key."""
    return render(
        "summary.html",
        report=summary,
        subject=subject(summary),
        headline=headline(summary),
        meaning=MEANING,
        alternatives=ALTERNATIVES,
        old_key=None if summary.bound else OLD_KEY,
    )
