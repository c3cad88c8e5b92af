"""VS-rate and RS-rate of independent draws (arXiv 2405.00466, Fig. 5), with exact intervals."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aiao_core.reports.parts import Interval
from aiao_core.statistics import clopper_pearson


def verification_success(right: Sequence[Tensor], tau: float) -> Interval:
    """Return the VS-rate: fraction of draws with RS >= tau. Independent draws: a Clopper-Pearson interval.

    ``right`` has for each draw whether each channel has the right sign, (C,) boolean.
    """
    verified = sum(float(signs.float().mean()) >= tau for signs in right)
    low, high = clopper_pearson(verified, len(right))
    return Interval(value=verified / len(right), low=low, high=high, draws=len(right))


def response_success(right: Sequence[Tensor], generator: torch.Generator) -> Interval:
    """Return the RS-rate: mean fraction of right signs.

    The channels of one draw depend on each other; one channel drawn at random from each draw does not depend on the others
    and is right with probability RS-rate, so these make an exact Clopper-Pearson interval. The mean over all channels is
    more precise and can lie outside that interval by chance: the interval is then extended to it, which covers no less.
    """
    rate = sum(float(signs.float().mean()) for signs in right) / len(right)
    picked = sum(bool(signs[torch.randint(len(signs), (), generator=generator)]) for signs in right)
    low, high = clopper_pearson(picked, len(right))
    return Interval(value=rate, low=min(low, rate), high=max(high, rate), draws=len(right))
