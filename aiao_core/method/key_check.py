"""Check a key against a traced model, and ignore what it must not choose (this project).

A key file is only its claimant's word. A claimant could list a layer many times, or pick the layers and subpaths on which an
innocent model happens to answer as the key's signs say. With a key of version 3 picking does not help: its response signs
follow from layers and subpaths too, so that each choice has fresh signs. Of an older key a test takes its seed and its layers,
and nothing more:

- each layer must run once, at positions, and be listed once, in execution order;
- the test reads *all* subpaths between them that span enough layers, by the architecture alone: the key's own list, which says
  where the watermark was trained, has no say in the exact test;
- layers that are not the first choice of the seed among all may have been picked for what an innocent answers on them. The
  p-value is then multiplied by the number of sets of layers that are at least as near to that first choice. By the union bound
  it stays a p-value for every way to pick, because one of these sets is the one that was picked.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from aiao_core.derivation import choose_layers
from aiao_core.errors import InvalidKey
from aiao_core.key import BINDING_VERSION, OwnerKey
from aiao_core.method.inputs import plain_noise
from aiao_core.method.subpaths import all_subpaths, spanning
from aiao_core.method.tracing import check_layers, positional_layers
from aiao_core.protocol import VERSION

TRACED = 2
"""Inputs that show the execution order of the layers."""


@dataclass(frozen=True)
class CheckedKey:
    """A key that fits a model."""

    key: OwnerKey
    """With every subpath that a test reads: those of the key itself since version 3, before all between its layers."""
    log10_choices: float
    """log10 of the number of sets of layers from which those of the key may have been picked."""


def check_key(key: OwnerKey, denoiser: nn.Module) -> CheckedKey:
    """Check ``key`` against ``denoiser``, a model of its architecture: the source or a suspect.

    Raises :class:`InvalidKey` for layers or subpaths that no key of this project has, and
    :class:`aiao_core.errors.TracingError` if the denoiser lacks one of the layers.
    """
    check_layers(denoiser, key.layers)
    inputs = plain_noise(key.architecture, key.num_train_timesteps, TRACED, torch.Generator().manual_seed(0))
    traced = positional_layers(denoiser, inputs)
    positional = [layer.name for layer, _ in traced]
    # A suspect's last layer may be dead, so that its output depends on nothing: it is still the last one.
    first = next((layer.name for layer, depends in traced if depends), positional[0])
    order = [name for name in positional if name not in (first, positional[-1])]
    eligible = [layer.name for layer, depends in traced if depends and layer.name in order]
    names = [layer.name for layer in key.layers]
    _check_order(names, order)
    if len(set(key.subpaths)) < len(key.subpaths):
        raise InvalidKey("the key lists a subpath twice; it has been altered, use the key file as it was saved")
    if key.version >= BINDING_VERSION:
        return CheckedKey(_check_bound(key), 0.0)
    tested = replace(key, subpaths=spanning(replace(key, subpaths=all_subpaths(len(names))), order))
    if not tested.subpaths:
        raise InvalidKey("the key's layers lie too near to each other: no trigger could be answered; it has been altered")
    picked = len(set(names) - set(choose_layers(key.seed, eligible, len(names))))
    return CheckedKey(tested, math.log10(sets_as_near(len(order), len(names), picked)) if picked else 0.0)


def _check_bound(key: OwnerKey) -> OwnerKey:
    """Return the key. Raises :class:`InvalidKey` if it is not bound to this protocol, or starts where there is no trigger."""
    if key.binding is None or key.binding.protocol != VERSION:
        raise InvalidKey(
            f"the key is not bound to version {VERSION} of the protocol, which this release tests by; use the release that "
            "the key was made with, or a later one"
        )
    if any(not key.trigger_mask(i).any() for i in key.trigger_layers):
        raise InvalidKey("a subpath of the key starts at a layer without a trigger; it has been altered")
    return key


def _check_order(names: list[str], order: list[str]) -> None:
    places = []
    for name in names:
        if name not in order:
            raise InvalidKey(
                f"layer {name} of the key cannot carry a watermark: it does not run once, on every input and at positions, "
                "between the first layer and the last; the key has been altered, use the key file as it was saved"
            )
        places.append(order.index(name))
    if places != sorted(set(places)):
        raise InvalidKey(
            "the key's layers do not stand there once each, in the order in which they run; it has been altered, use the key "
            "file as it was saved"
        )


def sets_as_near(candidates: int, size: int, different: int) -> int:
    """Count the sets of ``size`` out of ``candidates`` with at most ``different`` members that are not in a given set."""
    return sum(math.comb(size, out) * math.comb(candidates - size, out) for out in range(different + 1))
