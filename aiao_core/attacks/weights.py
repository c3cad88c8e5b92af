"""Attacks on the weights alone: averaging, noise, clipping, shifting, re-initialization, quantization. No data is needed."""

import torch
from torch import Tensor, nn

from aiao_core.attacks.fine_tuning import full_fine_tuning
from aiao_core.attacks.layers import key_layers, modules_of, weighted_layers
from aiao_core.attacks.thief import Thief
from aiao_core.errors import AttackNotPossible


def weight_averaging(thief: Thief, *, other: nn.Module, share: float) -> nn.Module:
    """Return ``(1 - share) * stolen + share * other``, weight by weight: model merging (Wortsman et al. 2022, "Model soups").

    Raises :class:`AttackNotPossible` if ``other`` is of another architecture.
    """
    averaged = thief.copy().denoiser
    parameters, others = dict(averaged.named_parameters()), dict(other.named_parameters())
    if {name: value.shape for name, value in parameters.items()} != {name: value.shape for name, value in others.items()}:
        raise AttackNotPossible("two models can be averaged only if they are of the same architecture")
    for name, parameter in parameters.items():
        parameter.data.lerp_(others[name].data.to(parameter.device), share)
    return averaged


def averaging_with_own_fine_tune(thief: Thief, *, steps: int, learning_rate: float, share: float) -> nn.Module:
    """Average the stolen model with a fine-tune of itself, because the thief has no other model.

    WiSE-FT of Wortsman et al. (2022, "Robust fine-tuning of zero-shot models"). The one attack here that needs data.
    """
    return weight_averaging(thief, other=full_fine_tuning(thief, steps=steps, learning_rate=learning_rate), share=share)


def weight_noise(thief: Thief, *, strength: float) -> nn.Module:
    """Add Gaussian noise of ``strength`` standard deviations of each parameter tensor to it."""
    noisy = thief.copy().denoiser
    with thief.seeded() as generator:
        for parameter in noisy.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            parameter.data += strength * parameter.data.std(correction=0) * noise
    return noisy


def weight_clipping(thief: Thief, *, deviations: float) -> nn.Module:
    """Clip the weights of each layer to ``deviations`` of its root mean square (this project's measure)."""
    clipped = thief.copy().denoiser
    for layer in weighted_layers(clipped):
        bound = float(deviations * layer.weight.data.square().mean().sqrt())
        layer.weight.data.clamp_(-bound, bound)
    return clipped


def weight_shifting(thief: Thief, *, strength: float) -> nn.Module:
    """Shift each filter of a layer by ``strength`` times their mean: at 1 the filters have mean zero.

    The shift of weight shifting (Lukas et al. 2022); their noise and fine-tuning are attacks of their own here.
    """
    shifted = thief.copy().denoiser
    for layer in weighted_layers(shifted):
        layer.weight.data -= strength * layer.weight.data.mean(0, keepdim=True)
    return shifted


def re_initialization(thief: Thief, *, layers: int) -> nn.Module:
    """Give random new weights to ``layers`` random layers among those that a key may use (after RTLL, Adi et al. 2018).

    Raises :class:`AttackNotPossible` if the denoiser has fewer.
    """
    candidates = key_layers(thief)
    if layers > len(candidates):
        raise AttackNotPossible(f"{layers} layers cannot be initialized again: this denoiser has {len(candidates)}")
    denoiser = thief.copy().denoiser
    with thief.seeded() as generator:
        chosen = torch.randperm(len(candidates), generator=generator)[:layers].tolist()
        for module in modules_of(denoiser, [candidates[number] for number in chosen]):
            module.reset_parameters()
    return denoiser


def weight_quantization(thief: Thief, *, bits: int) -> nn.Module:
    """Round the weights of every layer to ``bits`` bits: uniform and symmetric, one scale for each output channel.

    Post-training quantization as in Jacob et al. (2018); among the attacks of Lukas et al. (2022).
    """
    quantized = thief.copy().denoiser
    for layer in weighted_layers(quantized):
        layer.weight.data = _rounded(layer.weight.data, 2 ** (bits - 1) - 1)
    return quantized


def _rounded(weight: Tensor, greatest: int) -> Tensor:
    """Round ``weight`` (C_out, ...) to multiples, from -``greatest`` to ``greatest``, of a scale for each output channel."""
    scale = weight.flatten(1).abs().amax(1).clamp_min(torch.finfo(weight.dtype).tiny) / greatest
    scale = scale.view(-1, *[1] * (weight.dim() - 1))
    return (weight / scale).round() * scale
