"""Overwriting: a second watermark on top of the first."""

from hashlib import sha256

from torch import nn

from aiao_core.attacks.thief import Thief
from aiao_core.embedding import embed
from aiao_core.options import EmbeddingOptions


def overwriting(thief: Thief, *, times: int, steps: int, probe_steps: int) -> nn.Module:
    """Embed ``times`` AIAO watermarks of the thief's own, one after the other, as an owner would (Lukas et al. 2022).

    Raises what :func:`aiao_core.embedding.embed` raises.
    """
    model = thief.copy()
    options = EmbeddingOptions(steps=steps, probe_steps=probe_steps, seed=thief.seed)
    with thief.seeded():
        for number in range(times):
            seed = sha256(f"aiao/attacks/overwriting/{thief.seed}/{number}".encode()).digest()
            embed(model, seed, examples=thief.examples, options=options, progress=thief.progress)
    return model.denoiser
