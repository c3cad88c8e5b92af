"""Recognize what tensors are, by their names: an adapter, the registered denoiser, or another layout or kind of model.

This happens once for each file, before any number is read or computed; all that follows goes by the answer.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from diffusers.loaders.single_file_utils import infer_diffusers_model_type

from aiao_core.formats import names
from aiao_core.formats.adapter_names import foreign_kind, is_adapter, is_beside_denoiser
from aiao_core.formats.names import COMPANIONS, DIFFUSERS, Family
from aiao_core.formats.quantized import check_plain
from aiao_core.formats.weight_files import Weights

UNKNOWN = "v1"
"""diffusers' word for every model that it does not know."""


@dataclass(frozen=True)
class Recognized:
    """What the tensors of one file are."""

    adapter: bool = False
    """Perhaps of a kind that cannot be merged. Nothing else is said of an adapter."""
    fits: bool = False
    """Whether the names are those of the registered denoiser. A few of these occur in the original layouts too."""
    prefix: str = ""
    """What stands before the names of the denoiser's tensors."""
    averages: bool = False
    """Whether the denoiser's tensors are moving averages, because the file has no others."""
    family: Family | None = None
    """By the first words of the names, unless these fit."""
    heads: frozenset[str] = frozenset()
    """The first words of the names of the family's tensors."""
    inferred: str = UNKNOWN
    """What diffusers takes tensors of no known family for."""
    foreign: str | None = None
    """What the file is in words, if it is beside a denoiser or changes one in a way that is not read: an IP-Adapter, say."""

    @property
    def is_companion(self) -> bool:
        """Return whether these are what people keep beside a denoiser: a VAE, text encoders, an adapter that is not read."""
        return self.family in COMPANIONS or self.foreign is not None

    @property
    def layout(self) -> str | None:
        """The original layout in words; None for diffusers' own names, and for unknown ones."""
        if self.family is None or self.family is DIFFUSERS:
            return None
        return f"single file in the original {self.family.words} layout" + ", moving averages (EMA)" * self.averages

    def part(self, weights: Weights) -> Weights:
        """Return the denoiser's tensors alone, by their names without the prefix. Copies nothing."""
        return names.averages(weights) if self.averages else names.without_prefix(weights, self.prefix)


def recognize(weights: Weights, registered: Collection[str]) -> Recognized:
    """Recognize ``weights``, which may be without numbers; ``registered`` are the names of the registered denoiser's tensors.

    Names alone decide, and for a model of no known family the shapes. A registered class may use any names, so whether these
    fit is asked before any family.
    """
    if is_adapter(weights):
        return Recognized(adapter=True)
    common = names.common_prefix(weights, registered)
    if registered and 2 * sum(common + name in weights for name in registered) >= len(registered):
        return Recognized(fits=True, prefix=common)
    for prefix, averages, part in _parts(weights):
        if family := names.family_of(part):
            heads = frozenset(names.heads(part))
            if family is DIFFUSERS:
                return Recognized(prefix=common, family=family, heads=heads, foreign=foreign_kind(weights))
            return Recognized(prefix=prefix, averages=averages, family=family, heads=heads)
    embeddings = (
        "embeddings of words, which come with an adapter" if weights and all(map(is_beside_denoiser, weights)) else None
    )
    return Recognized(prefix=common, inferred=_infer(weights), foreign=foreign_kind(weights) or embeddings)


def _parts(weights: Weights) -> Iterator[tuple[str, bool, Weights]]:
    """Yield what may be a denoiser, its prefix, and whether it is a moving average. The whole file comes last."""
    for prefix in (*names.PREFIXES, *names.prefixes_in(weights)):
        yield prefix, False, names.without_prefix(weights, prefix)
    yield "", True, names.averages(weights)
    yield "", False, weights


def _infer(weights: Weights) -> str:
    try:
        check_plain({name: value for name, value in weights.items() if not value.is_meta})
        return str(infer_diffusers_model_type(weights))
    except Exception:  # it asks for tensors and dimensions that a damaged file lacks
        return UNKNOWN
