"""The verdict of a test and its controls (this project). Pure functions of numbers: a report is checked by the same ones."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from aiao_core.protocol import CONTROL_LOG10_P, LIMIT_LOG10_P, VERSION, least_share
from aiao_core.reports.parts import BitTest

Verdict = Literal["match", "no-match", "base-marked", "invalid", "exploratory"]
"""base-marked: an adapter's base carries the mark, and the test says nothing about the adapter. invalid: a control voids the
test. exploratory: the test did not keep the rules of a verdict, so it is not a verdict."""

Tested = Literal["checkpoint", "adapter", "base"]
"""The model of the test's numbers: the submitted checkpoint, an adapter merged into its base, or that base alone."""


class Controls(NamedTuple):
    """Tests that should find nothing."""

    decoys: tuple[BitTest, ...]
    """Keys that nobody embedded, on the suspect."""
    source: BitTest | None
    """The owner's key on the model before the watermark."""
    base: BitTest | None = None
    """The owner's key on an adapter's base."""

    def found(self) -> Iterator[str]:
        """Yield why the test is void: the controls that find what they must not, in words.

        Without figures, because the reason also goes to callers who must learn nothing of the key.
        """
        if self.source and finds(self.source):
            yield (
                "the owner's key is found in the source, which must not carry the mark: the source is the marked model, or the "
                "key was made to fit it"
            )
        if self.base and finds(self.base):
            yield (
                "the owner's key is found in the base alone: what base and adapter show together cannot be put down to the "
                "adapter"
            )
        if any(map(finds, self.decoys)):
            yield "keys that nobody embedded are found in the suspect too: the test does not measure what it must"


def finds(control: BitTest) -> bool:
    """Return whether a control finds a mark where none should be."""
    return control.log10_p <= CONTROL_LOG10_P


def forgeable(test: BitTest, version: int) -> bool:
    """Return whether so few bits are right that somebody could have read them out of published weights and planted them."""
    return test.matches < least_share(version) * test.bits


def decide(
    test: BitTest, max_log10_p: float, tested: Tested, controls: Controls, *, version: int = VERSION
) -> tuple[Verdict, str | None]:
    """Return the verdict of ``test`` by this version of the rules, and the reason if it is void.

    ``max_log10_p`` may be stricter than the limit of a match, never laxer.
    """
    reasons = list(controls.found())
    match = test.log10_p <= min(max_log10_p, LIMIT_LOG10_P)
    if match and forgeable(test, version):
        reasons.append(
            "the owner's key is found by more than chance, but so weakly that somebody could have read as much out of the "
            "published weights and planted it: this does not tell a derivative from a forgery"
        )
    if tested == "base" and not match:
        reasons.append("the base alone shows too much of the mark to test an adapter on it, and too little for a match")
    if reasons:
        return "invalid", "; ".join(reasons)
    if tested == "base":
        return "base-marked", None
    return ("match" if match else "no-match"), None
