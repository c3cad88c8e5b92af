"""Overwriting: a second watermark on top of the first."""

from hashlib import sha256

from torch import nn

from aiao_core.attacks.thief import Thief
from aiao_core.method.embedding import Training
from aiao_core.method.key_selection import select_key
from aiao_core.options import EmbeddingOptions
from aiao_core.progress import Progress


def overwriting(thief: Thief, *, times: int, options: EmbeddingOptions) -> nn.Module:
    """Embed ``times`` AIAO watermarks of the thief's own, one after the other, as an owner would (Lukas et al. 2022).

    ``options`` are those of each embedding, except that the seed is the thief's and that there are no decoys: then the
    thief's watermark responds to almost any trigger, the owner's included, which disturbs the owner's most (this project).
    Raises the errors of :func:`aiao_core.method.embedding.embed`.
    """
    model = thief.copy()
    options = options.model_copy(update={"seed": thief.seed})
    with thief.seeded():
        for number in range(times):
            seed = sha256(f"aiao/attacks/overwriting/{thief.seed}/{number}".encode()).digest()
            key = select_key(model, seed, thief.examples, options, thief.progress)
            training = Training(model, key, thief.examples, options, decoyed=0)
            while training.step < options.steps:
                training.advance()
                thief.progress(Progress("overwriting", training.step, options.steps, training.metrics))
            training.finish()
    return model.denoiser
