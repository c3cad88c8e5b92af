"""Options of an audit, with the ranges that a service accepts. Torch-free, so that the API process validates them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from aiao_core.options import Seed
from aiao_core.protocol import DRAWS, OLD_KEYS_DRAWS

Preset = Literal["quick", "full"]
"""The names of :data:`aiao_core.attacks.catalogue.PRESETS`."""

ATTACKS = (
    "full-fine-tuning-200",
    "full-fine-tuning-800",
    "full-fine-tuning-200-high-rate",
    "full-fine-tuning-800-high-rate",
    "last-layers",
    "laziest-layers",
    "lora-4-100",
    "lora-4-800",
    "lora-64-800",
    "dreambooth",
    "averaging-with-own-fine-tune",
    "magnitude-pruning-10",
    "magnitude-pruning-30",
    "magnitude-pruning-50",
    "magnitude-pruning-70",
    "structured-pruning-5",
    "structured-pruning-10",
    "structured-pruning-20",
    "fine-pruning-20",
    "quantisation-8",
    "quantisation-6",
    "quantisation-4",
    "weight-noise-5",
    "weight-noise-10",
    "weight-noise-20",
    "weight-noise-40",
    "weight-clipping",
    "weight-shifting",
    "re-initialisation-1",
    "re-initialisation-4",
    "channel-permutation",
    "sign-flips-and-scales",
    "reparametrisation",
    "head-rotation",
    "offsets-3",
    "offsets-30",
    "head-rotation-and-offsets-30",
    "overwriting-1",
    "overwriting-3",
    "distillation",
    "trigger-unlearning",
    "read-and-removed",
    "read-and-forged",
)
"""The ids of :data:`aiao_core.attacks.catalogue.CATALOGUE`, which needs torch."""


def _known(attack: str) -> str:
    if attack not in ATTACKS:
        raise ValueError(f"there is no such attack; there are {', '.join(ATTACKS)}")
    return attack


def _once_each(attacks: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(attacks))


AttackId = Annotated[str, Field(json_schema_extra={"enum": list(ATTACKS)}), AfterValidator(_known)]
Attacks = Annotated[tuple[AttackId, ...], Field(min_length=1, max_length=1000), AfterValidator(_once_each)]
"""Attacks by their ids; an attack that is named twice is tried once."""


class AuditOptions(BaseModel):
    """How each attacked model is tested."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    draws: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description=f"Monte Carlo draws of an input and a timestep, as in a verification: {DRAWS} for each trigger layer, or "
        f"{OLD_KEYS_DRAWS} in all for keys before version 3. A service refuses others.",
    )
    seed: Seed = Field(0, description="Seed of the attacks, the draws and the choice of the held-out images.")
