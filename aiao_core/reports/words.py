"""A verdict in words, the same on a page, in a terminal and in a message (this project).

A match is not "descends from" and not "was stolen by": the p-value bounds one thing: the chance that a model made without
knowledge of the key or of the marked weights answers as well.
"""

from typing import Protocol

from aiao_core.protocol import LIMIT_LOG10_P
from aiao_core.reports.verdicts import Tested, Verdict


class Told(Protocol):
    """The fields that words need: of a report, its summary, or a verification as a service shows it."""

    @property
    def verdict(self) -> Verdict: ...
    @property
    def tested(self) -> Tested | None: ...
    @property
    def suspect_name(self) -> str: ...
    @property
    def base_name(self) -> str | None: ...
    @property
    def reason(self) -> str | None: ...


WORDS: dict[Verdict, str] = {
    "match": "MATCH",
    "no-match": "NO MATCH",
    "base-marked": "BASE CARRIES THE MARK",
    "invalid": "INVALID",
    "exploratory": "EXPLORATORY, NOT A VERDICT",
}


def subject(told: Told) -> str:
    """Name what was tested: the checkpoint, the adapter on its base, or the base alone."""
    match told.tested:
        case "adapter":
            return f"the adapter {told.suspect_name} on its base {told.base_name}"
        case "base":
            return f"the base {told.base_name} of the adapter {told.suspect_name}"
        case _:
            return told.suspect_name


def headline(told: Told) -> str:
    """Write the verdict in a few words, without names."""
    what = "The adapter on its base" if told.tested == "adapter" else "The suspect"
    match told.verdict:
        case "match":
            return f"{what} answers with the owner's key."
        case "no-match":
            return f"The owner's watermark was not found in {what[0].lower()}{what[1:]}."
        case "base-marked":
            return "The base carries the mark. Nothing is said of the adapter."
        case "invalid":
            return "The test is invalid: it proves nothing either way."
        case "exploratory":
            return "An exploration, not a verdict."


def sentence(told: Told) -> str:
    """Write the verdict in one sentence that names what was tested."""
    match told.verdict:
        case "match":
            return f"{subject(told)} answers with the owner's key"
        case "no-match":
            return f"the owner's watermark was not found in {subject(told)}"
        case "base-marked":
            return f"{subject(told)} carries the mark; nothing is said of the adapter"
        case "invalid":
            return f"the test of {subject(told)} proves nothing either way: {told.reason}"
        case "exploratory":
            return f"the test of {subject(told)} did not keep the rules of a verdict: {told.reason}"


MEANING = (
    "It was made with knowledge of the key or of the marked weights: that is what the probability bounds. It is not the "
    "probability that somebody copied, and it does not say who did, or when."
)
"""Of a match."""

ALTERNATIVES = (
    "the weights descend from the marked checkpoint, by fine-tuning, merging, pruning or quantization",
    "they were distilled from it, or from what it answers to triggers",
    "the key was disclosed, or read out of the published weights (with keys of version 1 and 2 that takes a minute), and the "
    "mark was planted in another model",
    "the claimant prepared the file that was tested",
)
"""What a match is compatible with. Dates, custody and the weights themselves tell these apart; this test does not."""


OLD_KEY = (
    "The signs of such a key can be read out of the published weights, in a minute and without the owner's data. With them a "
    "thief can have removed the mark, or a forger planted it in a model that has nothing of the owner's. Renew the registered "
    "model for a key whose signs are hidden."
)
"""Of keys before version 3."""

NO_SOURCE = (
    "The model before the watermark was not named, so the signs were read against the suspect's answers to other keys' "
    "triggers. The mark is no louder than these, and many of its bits are lost: name the source for all of them."
)
"""Of a test of a key of version 3."""


def before_the_rules(max_log10_p: float, log10_p: float, verdict: Verdict) -> list[str]:
    """What a report from before the rules of a verdict did not check, a sentence each."""
    weaker = max_log10_p > LIMIT_LOG10_P
    notices = [
        "The caller could choose its limit, its seed and its draws, so that a test could be repeated until it matched.",
        "Its controls did not decide: decoy keys had fewer draws than the owner's, and the source was not tested.",
        "An adapter without a named base was merged into the owner's own marked model, in which every adapter matches.",
        "The key's layers and subpaths were not checked, and tests with the key were not counted.",
    ]
    if weaker:
        notices.insert(0, f"Its limit was log10 p {max_log10_p:g}; a verdict needs {LIMIT_LOG10_P:.1f} (2^-64) or less.")
    if verdict == "match" and log10_p > LIMIT_LOG10_P:
        notices.insert(0, "With today's limit it would not be a match.")
    return notices
