"""Read a key of any version from one model, in every way that the test of that version knows (this project)."""

from dataclasses import dataclass

from torch import nn

from aiao_core.denoisers.weights import digest
from aiao_core.errors import WrongSource
from aiao_core.key import BINDING_VERSION, OwnerKey
from aiao_core.progress import ProgressCallback, silent
from aiao_core.protocol import draws_for, version_for
from aiao_core.verification.alignment import Reference, reference
from aiao_core.verification.old_keys import Shouted, measure_shout
from aiao_core.verification.whisper import SourceAnswers, Whispered, measure_whisper, observe_source

Measurement = Shouted | Whispered
"""What a key of version 1 or 2, or of version 3, reads from a model."""


@dataclass(frozen=True)
class Source:
    """What a test needs of the source, the model before the watermark, once it is no longer in memory."""

    weights: str
    """Its digest."""
    features: Reference
    answers: SourceAnswers | None
    """To the triggers of a key of version 3."""


def know_source(
    denoiser: nn.Module, key: OwnerKey, seed: int, *, draws: int | None = None, weights: str | None = None
) -> Source:
    """Measure what the tests of ``key`` by the draws of ``seed`` need of its source.

    ``weights`` is the denoiser's digest, if it is known. Raises :class:`WrongSource` for a model that a key of version 3 is not
    bound to.
    """
    weights = weights or digest(denoiser.state_dict())
    if key.version < BINDING_VERSION:
        return Source(weights, reference(denoiser, key, seed), None)
    if key.binding is None or weights != key.binding.source:
        raise WrongSource(
            f"this is not the key's source: its weights have the digest {weights}, and the key's signs follow from the source "
            f"{key.binding and key.binding.source}; name the model that was registered, as it was before the watermark"
        )
    answers = observe_source(denoiser, key, seed, draws or draws_for(version_for(key.version)))
    return Source(weights, answers.features, answers)


def measure(
    denoiser: nn.Module,
    key: OwnerKey,
    seed: int,
    *,
    draws: int | None = None,
    source: Source | None = None,
    progress: ProgressCallback = silent,
) -> Measurement:
    """Read ``key`` from ``denoiser`` by the draws of ``seed``; ``source`` is of the same seed and the same number of draws.

    ``draws`` are by default those of a verdict. Raises :class:`aiao_core.errors.InvalidKey` for a key that no model of its
    architecture can have, :class:`aiao_core.errors.TracingError` if the denoiser lacks one of its layers, and
    :class:`aiao_core.errors.InvalidCheckpoint` if activations are not finite.
    """
    draws = draws or draws_for(version_for(key.version))
    if key.version < BINDING_VERSION:
        features = source.features if source else None
        return measure_shout(denoiser, key, seed, draws=draws, source=features, progress=progress)
    answers = source.answers if source else None
    return measure_whisper(denoiser, key, seed, draws=draws, source=answers, progress=progress)
