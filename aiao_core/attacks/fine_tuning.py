"""Fine-tuning: of every weight, of some layers, of low-rank updates, on a few images."""

from dataclasses import replace

from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import nn

from aiao_core.attacks.layers import key_layers, modules_of
from aiao_core.attacks.thief import Thief
from aiao_core.key import Layer
from aiao_core.method.fine_tuning import fine_tune
from aiao_core.method.lazy import laziest, probe, relative_changes

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers that diffusers' training examples adapt."""


def full_fine_tuning(thief: Thief, *, steps: int, learning_rate: float) -> nn.Module:
    """Train every weight on the thief's data: fine-tune all layers, FTAL (Adi et al. 2018; Lukas et al. 2022)."""
    return _fine_tuned(thief, steps=steps, learning_rate=learning_rate)


def last_layers_fine_tuning(thief: Thief, *, steps: int, learning_rate: float, share: float) -> nn.Module:
    """Train the last ``share`` of the layers, in the order in which they run, and leave the others.

    FTLL of Adi et al. (2018), who train the last layer of a classifier; a denoiser's last layer alone can learn nothing.
    """
    layers = key_layers(thief)
    last = layers[-max(1, round(share * len(layers))) :]
    return _fine_tuned(thief, last, steps=steps, learning_rate=learning_rate)


def laziest_layers_fine_tuning(thief: Thief, *, steps: int, learning_rate: float, share: float, probe_steps: int) -> nn.Module:
    """Train the laziest ``share`` of the layers only, where AIAO hides its mark (arXiv 2405.00466).

    An adaptive thief (this project) finds them as the owner does, by a short probe fine-tuning.
    """
    layers = key_layers(thief)
    with thief.seeded():
        tuned = probe(thief.model, thief.examples, steps=probe_steps, seed=thief.seed, progress=thief.progress)
    lazy = laziest(relative_changes(thief.model.denoiser, tuned, layers), share)
    return _fine_tuned(thief, [layer for layer in layers if layer.name in lazy], steps=steps, learning_rate=learning_rate)


def lora(thief: Thief, *, steps: int, learning_rate: float, rank: int) -> nn.Module:
    """Train low-rank updates of the attention projections and merge them into the weights (LoRA, Hu et al. 2022).

    A model without attention is adapted in its convolutions and linear layers, as LyCORIS does.
    """
    model = thief.copy()
    names = [name for name, _ in model.denoiser.named_modules() if name.endswith(ATTENTION_PROJECTIONS)]
    targets = names or [layer.name for layer in key_layers(thief)]
    with thief.seeded():
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian")
        adapted = LoraModel(model.denoiser, config, "thief")
        updates = [parameter for name, parameter in model.denoiser.named_parameters() if "lora_" in name]
        fine_tune(
            model,
            thief.examples,
            steps=steps,
            learning_rate=learning_rate,
            seed=thief.seed,
            parameters=updates,
            progress=thief.progress,
        )
    merged: nn.Module = adapted.merge_and_unload()
    return merged.requires_grad_(False)


def dreambooth(thief: Thief, *, steps: int, learning_rate: float, images: int) -> nn.Module:
    """Train every weight on the first ``images`` of the thief's images, all under the conditions of the first one.

    DreamBooth (Ruiz et al. 2023) without prior preservation: the thief does not care what else the model forgets.
    """
    few = thief.examples[:images]
    one = {name: value[:1].expand_as(value) for name, value in few.conditions.items()}
    return _fine_tuned(replace(thief, examples=replace(few, conditions=one)), steps=steps, learning_rate=learning_rate)


def _fine_tuned(thief: Thief, layers: list[Layer] | None = None, *, steps: int, learning_rate: float) -> nn.Module:
    """Return a copy of the stolen model after fine-tuning ``layers``, or every weight."""
    model = thief.copy()
    trained = None
    if layers is not None:
        trained = [parameter for module in modules_of(model.denoiser, layers) for parameter in module.parameters()]
    with thief.seeded():
        fine_tune(
            model,
            thief.examples,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=min(32, len(thief.examples)),
            seed=thief.seed,
            parameters=trained,
            progress=thief.progress,
        )
    return model.denoiser
