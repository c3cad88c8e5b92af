"""Errors, in words for the person who can fix the cause. Each message names the cause and the fix."""

import re

FOLDERS = re.compile(r"(?<![\w.~:/-])/(?:[^/\s'\"]+/)+")
"""The folders of an absolute path, up to the name of the file."""

MAX_READ, MAX_REASON = 10_000, 200
"""Characters of another library's text that are looked at, and that an error repeats: it may repeat all of a hostile file."""

LONGEST_SENTENCE = 4000
"""Characters of an error: it may name each of many files."""


def printable(text: str) -> str:
    """Put ``text`` on one line and escape the characters that a terminal would obey or a database refuse."""
    return "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in text)


def in_words(error: BaseException) -> str:
    """Return why a library or the system failed, briefly and without the folders of this machine."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return FOLDERS.sub("", text[:MAX_READ])[:MAX_REASON]


class AiaoError(Exception):
    """Base of every error that this library raises on purpose; ``str(error)`` may be shown to a user."""

    code = "error"
    """Stable slug."""

    def __init__(self, message: str = "") -> None:
        sentence = printable(message)
        super().__init__(sentence if len(sentence) <= LONGEST_SENTENCE else sentence[: LONGEST_SENTENCE - 1] + "…")


class InvalidKey(AiaoError):
    """A secret with a typing error, or a key file that is damaged, altered or of an unknown version."""

    code = "invalid-key"


class InvalidReport(AiaoError):
    """A report file that is damaged or of an unknown version."""

    code = "invalid-report"


class InvalidCheckpoint(AiaoError):
    """Weights that cannot be read safely, are incomplete, have a wrong shape or hold NaN; the layer is named."""

    code = "invalid-checkpoint"


class WrongArchitecture(InvalidCheckpoint):
    """A readable checkpoint of another architecture than the one the key belongs to."""

    code = "wrong-architecture"


class WrongSource(InvalidCheckpoint):
    """A model that is not the source which a key's response signs follow from."""

    code = "wrong-source"


class AdapterWithoutBase(InvalidCheckpoint):
    """An adapter without the model that it changes. It is never merged into the owner's marked model."""

    code = "adapter-without-base"


class InvalidReference(AiaoError):
    """A reference to the hub that is malformed, unknown, not public, or holds nothing to test, or too much."""

    code = "invalid-reference"


class HubUnavailable(AiaoError):
    """The Hugging Face hub did not answer."""

    code = "hub-unavailable"


class UnsafeArchive(AiaoError):
    """An archive that would write outside its folder or expand beyond the limits."""

    code = "unsafe-archive"


class InvalidImages(AiaoError):
    """An image set that is empty or cannot be read."""

    code = "invalid-images"


class TracingError(AiaoError):
    """The denoiser has no layers that the method can use, or does not run as its key says."""

    code = "tracing-error"


class EmbeddingFailed(AiaoError):
    """The watermark could not be embedded well enough to be proved later."""

    code = "embedding-failed"


class AttackNotPossible(AiaoError):
    """A removal attack that has nothing to work on in this denoiser, or not what it needs."""

    code = "attack-not-possible"


class MissingDependency(AiaoError):
    """A Python package is not installed; the message names the command that installs it."""

    code = "missing-dependency"


class Canceled(AiaoError):
    """The caller asked to stop. Raise it from a progress callback to stop a computation within one step."""

    code = "canceled"
