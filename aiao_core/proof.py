"""The proof of a mark before its owner gets it: the mark is found, and an attacker does not read it at once (this project)."""

from collections.abc import Callable

from aiao_core.attacks.inversion.methods import quick_readings
from aiao_core.attacks.inversion.scoring import scored
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.errors import EmbeddingFailed
from aiao_core.key import OwnerKey
from aiao_core.progress import Progress, ProgressCallback, silent
from aiao_core.reports.verification import Report
from aiao_core.verification.verify import Load, Subject, verify

READABLE_SHARE = 0.65
"""Share of right signs, read in seconds, at which a mark is not delivered. Derivatives of a marked model that are still useful
keep about as many: who reads more can train the mark out of a model, and has the better part of a forgery."""


def prove(marked: Callable[[], DiffusionModel], key: OwnerKey, *, source: Load, progress: ProgressCallback = silent) -> Report:
    """Test the ``marked`` model as it was saved, in its own precision, and try to read the mark out of it without the key.

    Returns the report of the test. Raises :class:`EmbeddingFailed` if the test does not match: nobody should publish a mark
    that cannot be found. It raises it also if an attack of seconds reads :data:`READABLE_SHARE` of the signs: anybody could
    take such a mark out. The same key and weights give the same answer.

    Marks that fail make no test of others unfair: if a share q of all keys passes, an innocent model matches one of these by
    chance at most 1/q times as often as a key of any.
    """
    report = verify(
        lambda: marked().denoiser,
        key,
        subject=Subject("marked", "own"),
        source=source,
        registration="service",
        progress=progress,
    )
    if report.verdict != "match":
        found = report.reason or f"log10 p is {report.test.log10_p:.1f}"
        raise EmbeddingFailed(f"the watermark cannot be proved: {found}; use more steps or more layers")
    progress(Progress("reading", 0, 1))
    _check_unread(marked(), key)
    progress(Progress("reading", 1, 1))
    return report


def _check_unread(marked: DiffusionModel, key: OwnerKey) -> None:
    score = max((scored(reading, key) for reading in quick_readings(marked)), key=lambda score: score.certain_share)
    if score.certain_share >= READABLE_SHARE:
        raise EmbeddingFailed(
            f"the watermark can be read out of the marked model without the key: an attack of seconds has "
            f"{score.certain_share:.0%} or more of the signs right, with which anybody can train the mark out of a model; use "
            "more steps, a lower learning_rate or a larger batch_size"
        )
