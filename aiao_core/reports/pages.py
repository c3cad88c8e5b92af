"""Self-contained pages for people: no script, no request, printable."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

PLAIN_LIMIT = -4
"""log10 of a probability above which it is written as a plain number."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Of every page, as a Content-Security-Policy: it holds names that strangers chose, and nothing in it may run or load."""

_environment = Environment(
    loader=PackageLoader("aiao_core.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(template: str, **values: Any) -> str:
    """Render ``template`` with ``values``, UTF-8. All texts are escaped."""
    return _environment.get_template(template).render(values)


def probability(log10_p: float) -> str | Markup:
    """Write a p-value, given as its log10, in words that need no mathematics: 1 in 10 to the 153rd, or 0.31."""
    if log10_p > PLAIN_LIMIT:
        return f"{10**log10_p:.2g}"
    return Markup("1 in 10<sup>{:g}</sup>").format(round(-log10_p, 1) if log10_p > -20 else round(-log10_p))


def ordinal(number: int) -> str:
    """Write 1st, 2nd, 3rd, 11th …"""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def as_sentence(text: str) -> str:
    """Write ``text`` with a capital and a period."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


_environment.globals["policy"] = POLICY
_environment.filters |= {"probability": probability, "ordinal": ordinal, "sentence": as_sentence}
