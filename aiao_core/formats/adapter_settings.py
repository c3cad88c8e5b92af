"""The numbers that an adapter's configuration gives: its scale, and how its rotations were trained. Data alone."""

import math
import re
from collections.abc import Mapping
from typing import Any

from aiao_core.errors import InvalidCheckpoint

PEFT_TERMS = 5
"""Of the series for a rotation, where PEFT's configuration does not say another number."""
MAX_TERMS = 64

Config = Mapping[str, Any]
"""What PEFT writes to ``adapter_config.json``; empty for an adapter without one."""


def scale_of(config: Config, layer: str, rank: int, alpha: float | None) -> float:
    """Return by what an adapter's change of a layer is multiplied.

    ``rank`` is 0 for a change of full rank. The file's own ``alpha`` counts before the configuration.
    """
    if alpha is not None:
        return alpha / rank if rank else 1.0  # LyCORIS writes an alpha for a full LoKr too, and does not scale it
    setting = _setting(config, "lora_alpha" if "lora_alpha" in config else "alpha", "alpha_pattern", layer)
    if setting is None:
        return 1.0
    rank = rank or int(_setting(config, "r", "rank_pattern", layer) or 0)
    if rank < 1:
        raise InvalidCheckpoint("its configuration has an alpha, but no rank r of at least 1; save the adapter again")
    return setting / (math.sqrt(rank) if config.get("use_rslora") else rank)


def terms_of(config: Config) -> int | None:
    """Return the terms of the series with which PEFT trained rotations, or None if it transformed them exactly."""
    if not config.get("use_cayley_neumann", True):
        return None
    terms = config.get("num_cayley_neumann_terms", PEFT_TERMS)
    if type(terms) is not int or not 1 <= terms <= MAX_TERMS:
        raise InvalidCheckpoint(
            f"its configuration has no num_cayley_neumann_terms from 1 to {MAX_TERMS}; save the adapter again"
        )
    return terms


def largest_rotation(config: Config, blocks: int) -> float | None:
    """Return the largest norm of the matrix of each of the ``blocks`` of a layer's rotation, or None if PEFT bounds none."""
    if not config.get("coft"):
        return None
    most = config.get("eps")
    if isinstance(most, bool) or not isinstance(most, int | float) or not 0 < most < 1e30:
        raise InvalidCheckpoint("its configuration bounds the rotations (coft) by no usable eps; save the adapter again")
    return most / math.sqrt(blocks)


def _setting(config: Config, name: str, pattern_name: str, layer: str) -> float | None:
    """Return a number for this layer as PEFT does, but without running an attacker's regular expressions."""
    patterns = config.get(pattern_name) or {}
    if not isinstance(patterns, Mapping) or not all(re.fullmatch(r"\^?[\w.-]+", pattern) for pattern in patterns):
        raise InvalidCheckpoint(
            f"its configuration has a {pattern_name} that is not a table of layer names; write the names in full"
        )
    values = [own for key, own in patterns.items() if layer == key.removeprefix("^") or layer.endswith(f".{key}")]
    values += [config[name]] if name in config else []
    if not values:
        return None
    if isinstance(values[0], bool) or not isinstance(values[0], int | float) or not abs(values[0]) < 1e30:
        raise InvalidCheckpoint(f"its configuration has no usable number for {name} or {pattern_name}; save the adapter again")
    return values[0]
