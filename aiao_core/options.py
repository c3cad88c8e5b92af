"""Options of an owner, with the ranges that a service accepts. Torch-free, so that the API process validates them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from aiao_core.protocol import DECOYS, DRAWS, LIMIT_LOG10_P, OLD_KEYS_DRAWS, TAU, VERSION, draws_for

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class EmbeddingOptions(BaseModel):
    """How the watermark is embedded. The defaults suit a small image model on two CPU cores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(800, ge=1, le=1_000_000, description="Training steps of the embedding.")
    batch_size: int = Field(16, ge=2, le=4096, description="Images in one training step.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Peak of the one-cycle learning rate.")
    layers: int = Field(48, ge=2, le=4096, description="Layers that the key uses, at most.")
    lazy_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the layers, laziest first, from which the key chooses; 1: all, unsearched.",
    )
    probe_steps: int = Field(
        60, ge=1, le=100_000, description="Steps of the fine-tuning that finds the lazy layers, if the key chooses among those."
    )
    samples: int = Field(
        256, ge=1, le=100_000, description="Images drawn from the model itself, when the owner gives no image set."
    )
    train: Literal["all", "key-layers"] = Field(
        "all", description="Which weights are trained: all, or only those of the key's layers, with less memory."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Arithmetic of the training; weights are kept in fp32.")
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        "adamw", description="adamw-8bit keeps its state in 8 bits; it needs bitsandbytes on the worker."
    )
    gradient_checkpointing: bool = Field(False, description="Compute activations twice instead of keeping them.")
    offload_source: bool = Field(False, description="Keep the frozen source on the CPU and move each layer as it runs.")
    checkpoint_every: int = Field(50, ge=1, description="Training steps between two checkpoints to resume from.")
    seed: Seed = Field(0, description="Seed of everything random that is not the key: noise, batches, probe.")


class VerificationOptions(BaseModel):
    """How a suspect is tested. A verdict takes the values of :mod:`aiao_core.protocol`, and at most a stricter limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    draws: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description=f"Monte Carlo draws of an input and a timestep. A verdict has {DRAWS} for each trigger layer, or "
        f"{OLD_KEYS_DRAWS} in all for keys before version 3: others are refused.",
    )
    decoys: int = Field(
        DECOYS,
        ge=0,
        le=10_000,
        description=f"Random keys tested on the same suspect as a control. A verdict has {DECOYS}: others are refused.",
    )
    tau: float = Field(
        TAU,
        gt=0.5,
        le=1,
        description=f"Share of right signs at which a draw counts as verified. A verdict has {TAU}: others are refused.",
    )
    max_log10_p: float = Field(
        LIMIT_LOG10_P,
        lt=0,
        ge=-10_000,
        description="log10 of the p-value at or below which it is a match: log10 of 2^-64, or less. More is refused.",
    )
    seed: Seed | None = Field(
        None, description="The seed follows from the key and the weights that are tested: any other is refused."
    )

    def departures(self, version: int = VERSION) -> list[str]:
        """List why a test with these options is not a verdict, in a sentence each; empty for a verdict.

        ``version`` is of the rules.
        """
        reasons, draws = [], draws_for(version)
        for name, value, fixed in (
            ("draws", self.draws or draws, draws),
            ("decoys", self.decoys, DECOYS),
            ("tau", self.tau, TAU),
        ):
            if value != fixed:
                reasons.append(f"{name} is {fixed} in every verdict, not {value:g}: nobody chooses how an accusation is tested")
        if self.seed is not None:
            reasons.append("seed follows from key and weights: with a seed of choice a test is repeated until it matches")
        if self.max_log10_p > LIMIT_LOG10_P:
            reasons.append(
                f"max_log10_p is at most {LIMIT_LOG10_P:.2f} (2^-64), not {self.max_log10_p:g}: a laxer limit accuses innocents"
            )
        return reasons

    @property
    def exploratory(self) -> bool:
        """Return whether a test with these options is not a verdict."""
        return bool(self.departures())
