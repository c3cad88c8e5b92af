"""Embed an owner's watermark in a denoiser (arXiv 2405.00466; the training scheme is this project's).

The key chooses its layers among all, or among the lazy ones that a probe fine-tuning finds; the trigger's reach in the source
chooses the subpaths, and the three-term objective trains all of them at once.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aiao_core.denoisers import Conditions, Inputs, family_of
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.errors import EmbeddingFailed
from aiao_core.key import SEED_BYTES, OwnerKey, PublicKey, encode_secret
from aiao_core.method.acceleration import accelerator, frozen_source, make_optimizer, trained_parameters
from aiao_core.method.fine_tuning import Examples
from aiao_core.method.inputs import arbitrary_inputs, measuring_inputs, own_samples
from aiao_core.method.key_selection import select_key
from aiao_core.method.objective import measure_scales, objective
from aiao_core.method.resume import CheckpointStore, read_state, write_state
from aiao_core.method.watermark import Neighbor, Triggers, Watermark
from aiao_core.options import EmbeddingOptions
from aiao_core.progress import Progress, ProgressCallback, silent

SCALE_INPUTS = 64
"""Inputs on which the objective's scales are measured."""

TRIGGERED = 0.5
"""Fraction of a batch that the marked model also sees with a trigger."""

DECOYED = 0.5
"""Fraction of a batch that both models see with triggers that are not the owner's (this project). Without them the marked model
responds to almost any disturbance of a layer, and a thief can overwrite the response by embedding another key."""

NEAR = 0.75
"""Fraction of the decoys that are near neighbors of the owner's triggers; the others are of keys that nobody owns. So the
response is confined to a narrow basin around the owner's triggers, which a search does not come across."""

REDRAWN = (0.1, 0.7)
"""Least and largest fraction of a near neighbor's channels that are drawn again."""

WARM_UP = 0.15
"""Fraction of the steps in which the one-cycle learning rate rises (Smith and Topin 2018)."""


@dataclass(frozen=True)
class Embedding:
    """The result of :func:`embed` besides the trained denoiser."""

    key: OwnerKey
    metrics: dict[str, float]
    """The three terms of the objective at the last step."""


def embed(
    model: DiffusionModel,
    seed: bytes,
    *,
    examples: Examples | None = None,
    options: EmbeddingOptions | None = None,
    beacon: str | None = None,
    store: CheckpointStore | None = None,
    progress: ProgressCallback = silent,
) -> Embedding:
    """Train the watermark of the key seed ``seed`` (32 bytes) into ``model.denoiser``, in place.

    ``examples`` are noised for training; without them the model draws its own under random conditions. ``beacon`` is a public
    random value that appeared after the key's commitment was dated; the response signs then follow from it too. With a
    ``store`` the training state is kept every ``options.checkpoint_every`` steps, and an interrupted embedding resumes there:
    on a CPU with the same number of threads to the same bits as an undisturbed run. ``progress`` is called at every step and
    may raise :class:`aiao_core.errors.Canceled`. Raises :class:`EmbeddingFailed` if the objective diverges.
    """
    options = options or EmbeddingOptions()
    model.denoiser.to(accelerator(options.precision).device)
    if examples is None:
        examples = own_examples(model, options, progress=progress)
    state = read_state(store) if store else None
    if state is None:
        key = select_key(model, seed, examples, options, progress, beacon=beacon)
    else:
        key = OwnerKey.from_public(PublicKey.model_validate_json(state["key"]), encode_secret(seed))

    training = Training(model, key, examples, options)
    if state is not None:
        training.restore(state.pop("training"))  # popped, or it would hold a third copy of the weights to the end
    while training.step < options.steps:
        training.advance()
        if store and training.step % options.checkpoint_every == 0:
            # The public key only: the state may lie in storage, where no secret belongs.
            public = key.public().model_dump_json()
            with tempfile.TemporaryDirectory() as folder:
                write_state({"key": public, "training": training.state()}, store, Path(folder))
        progress(Progress("embedding", training.step, options.steps, training.metrics))
    training.finish()
    return Embedding(key, training.metrics)


def own_examples(
    model: DiffusionModel, options: EmbeddingOptions, conditions: Conditions | None = None, progress: ProgressCallback = silent
) -> Examples:
    """Draw the model's own samples under ``conditions``, by default random ones, for an owner without images."""
    if conditions is None:
        generator = torch.Generator().manual_seed(options.seed)
        conditions = family_of(model.denoiser).random_conditions(model.architecture.config, options.samples, generator)
    return Examples(own_samples(model, conditions, count=options.samples, seed=options.seed, progress=progress), conditions)


class Training:
    """The training loop and its state: everything that must be the same after an interruption."""

    def __init__(
        self, model: DiffusionModel, key: OwnerKey, examples: Examples, options: EmbeddingOptions, *, decoyed: float = DECOYED
    ) -> None:
        self.accelerator = accelerator(options.precision)
        self.source = frozen_source(model.denoiser, self.accelerator, options)
        # Dropout stays off: its random numbers would not survive an interruption.
        denoiser: Any = model.denoiser
        self.marked = denoiser.eval().to(self.accelerator.device)
        self.gradient_checkpointing = options.gradient_checkpointing
        if self.gradient_checkpointing:
            self.marked.enable_gradient_checkpointing()
        self.trained = trained_parameters(self.marked, key, options)
        self.model, self.key, self.examples, self.batch_size = model, key, examples, options.batch_size
        self.decoyed = decoyed
        self.watermark = Watermark(key, self.marked)
        self.optimizer = make_optimizer(self.trained, options)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, options.learning_rate, total_steps=options.steps, pct_start=WARM_UP
        )
        self.generator = torch.Generator().manual_seed(options.seed)
        inputs = measuring_inputs(model, examples, SCALE_INPUTS, self.generator)
        with self.accelerator.autocast():
            self.scales = measure_scales(self.source, model.schedule, self.watermark, inputs)
        self.step = 0
        self.metrics: dict[str, float] = {}

    def advance(self) -> None:
        """Take one step on fresh inputs."""
        self.update(arbitrary_inputs(self.model, self.examples, self.batch_size, self.generator))

    def update(self, inputs: Inputs) -> None:
        """Take one step on ``inputs``: :data:`DECOYED` of them under a decoy's trigger.

        :data:`TRIGGERED` of them come a second time under the owner's trigger at a random layer. Layers are drawn evenly, not
        by the subpaths that start there: one that starts few would hardly be trained.
        """
        layers = self.watermark.trigger_layers
        triggered = max(1, round(TRIGGERED * self.batch_size))
        picked = torch.randint(len(layers), (triggered,), generator=self.generator)
        triggers = [layers[index] for index in picked.tolist()]
        self.optimizer.zero_grad(set_to_none=True)
        with (
            self.accelerator.autocast(),
            objective(self.marked, self.source, self.watermark, self.scales, inputs, triggers, self.decoys()) as terms,
        ):
            loss = terms.total()
            if not loss.isfinite():
                raise EmbeddingFailed(f"the objective diverged at step {self.step + 1}; try a lower learning_rate")
            self.accelerator.backward(loss)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.metrics = {name: float(value.detach()) for name, value in terms._asdict().items()}

    def decoys(self) -> list[tuple[Triggers, int]]:
        """Draw triggers at random trigger layers that must call up nothing: neighbors of the owner's, and a fresh key's."""
        seed = bytes(torch.randint(256, (SEED_BYTES,), generator=self.generator).tolist())
        other = Watermark(replace(self.key, seed=seed), self.marked)
        layers = self.watermark.trigger_layers
        drawn: list[tuple[Triggers, int]] = []
        for index in torch.randint(len(layers), (round(self.decoyed * self.batch_size),), generator=self.generator).tolist():
            i, (near, place) = layers[index], torch.rand(2, generator=self.generator).tolist()
            redrawn = REDRAWN[0] + place * (REDRAWN[1] - REDRAWN[0])
            drawn.append((Neighbor.of(self.watermark, i, redrawn, self.generator) if near < NEAR else other, i))
        return drawn

    def finish(self) -> None:
        """Return the denoiser to its first state: frozen, on the CPU."""
        if self.gradient_checkpointing:
            self.marked.disable_gradient_checkpointing()
        self.marked.requires_grad_(False).cpu()

    def state(self) -> dict[str, Any]:
        return {
            "denoiser": self.marked.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "metrics": self.metrics,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.marked.load_state_dict(state["denoiser"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.step, self.metrics = state["step"], state["metrics"]
