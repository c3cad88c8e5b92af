"""Pickles as trainers write them, with classes that nobody who reads them has."""

import io
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def saved(value: object, *, legacy: bool = False, protocol: int = 2) -> bytes:
    target = io.BytesIO()
    torch.save(value, target, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return target.getvalue()


@contextmanager
def foreign_class(module: str, name: str, base: type = object) -> Iterator[Any]:
    """A class of a module that exists in the block alone."""
    names = [".".join(module.split(".")[: number + 1]) for number in range(module.count(".") + 1)]
    sys.modules.update({part: types.ModuleType(part) for part in names})
    made = type(name, (base,), {"__module__": module, "__qualname__": name})
    setattr(sys.modules[module], name, made)
    try:
        yield made
    finally:
        for part in names:
            del sys.modules[part]


def lightning(weights: dict[str, torch.Tensor], *, legacy: bool = False) -> bytes:
    """A checkpoint as Lightning wrote it in 2022, with a class for a key."""
    with foreign_class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") as callback:
        return saved(
            {
                "epoch": 4,
                "state_dict": weights,
                "callbacks": {callback: {"best_model_score": torch.tensor(0.1)}},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
            },
            legacy=legacy,
        )
