"""What a child answers that an attacker has taken over while it reads a client's file."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

UNET = {"class_name": "UNet2DModel", "config": {"sample_size": 8}}
SUSPECT = {"form": "safetensors", "weights": f"sha256:{'0' * 64}", "base_name": None, "base_given": False}
NO_ANSWER: list[Any] = [
    {"error": 1},
    {"error": ["invalid-checkpoint"], "detail": {}},
    {"error": "canceled", "detail": "this would end the job as one that its owner stopped"},
    {"error": "invalid-checkpoint"},
    {"error": "nothing-that-is-known", "detail": "/" * 500_000},
]
ANSWERS: dict[str, list[Any]] = {
    "read_model": [
        {},
        {"architecture": 1, "scheduler": {}},
        {"architecture": UNET, "scheduler": []},
        {"architecture": UNET | {"class_name": ["UNet2DModel"]}, "scheduler": {}},
        {"architecture": {"class_name": "os.system", "config": {}}, "scheduler": {}},
        {"architecture": {"class_name": "UNet2DModel", "config": {"layers_per_block": "x"}}, "scheduler": {}},
        {"architecture": UNET, "scheduler": {"num_train_timesteps": "many", "trained_betas": {}}},
        {"architecture": UNET, "scheduler": {}},
    ],
    "read_suspect": [
        {},
        SUSPECT | {"form": 7},
        SUSPECT | {"weights": "sha256:none"},
        SUSPECT | {"base_name": {"a": 1}},
        SUSPECT | {"base_given": []},
        SUSPECT | {"base_name": "a base that was not written"},
        SUSPECT,
    ],
    "read_source": [{}],
    "read_examples": [{}],
    "write_marked": [{}],
}
FILES: dict[str, bytes | None] = {
    "none": None,
    "empty": b"",
    "no safetensors": b"{" * 1000,
    "no tensor": save({}),
    "others": save({"clean": torch.zeros(2, 3), "condition.class_labels": torch.zeros(5), "a": torch.zeros(())}),
    "no numbers": save({"clean": torch.full((2, 1, 8, 8), math.nan)}),
    "no classes": save({"clean": torch.zeros(2, 1, 8, 8), "condition.class_labels": torch.tensor([0, 10**6])}),
    "of no size": save({"clean": torch.zeros(0, 1, 8, 8)}),
    "many words": save({"clean": torch.zeros(1, 1, 8, 8), "condition.encoder_hidden_states": torch.zeros(1, 100_000, 4)}),
}

LIARS: dict[str, dict[str, Callable[..., Any]]] = {name: {} for name in ANSWERS}
"""By the reader that they stand in for, and by what they do."""


def _liar(name: str, answer: Any, content: bytes | None) -> Callable[..., Any]:
    def lie(target: str, **_: Any) -> Any:
        if content is not None:
            Path(target).write_bytes(content)
        return answer

    lie.__name__ = lie.__qualname__ = name
    globals()[name] = lie  # where the server of the children looks for it
    return lie


for _reader, _answers in ANSWERS.items():
    for _answer in [*_answers, *NO_ANSWER]:
        for _file, _content in FILES.items() if _answer == _answers[-1] else [("none", None)]:
            _number = len(LIARS[_reader])
            LIARS[_reader][f"{_number}: {_file}"] = _liar(f"{_reader}_{_number}", _answer, _content)
