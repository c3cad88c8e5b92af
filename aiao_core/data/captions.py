"""Captions as conditions, by the text encoders of the owner's own pipeline folder. A verdict never needs this."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from aiao_core.denoisers import Conditions, family_of
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.errors import InvalidCheckpoint, InvalidImages
from aiao_core.formats.pipelines import check_config
from aiao_core.formats.weight_files import read_json

ENCODERS: dict[str, tuple[Any, Any, Any]] = {
    "CLIPTextModel": (CLIPTextModel, CLIPTextConfig, CLIPTokenizer),
    "CLIPTextModelWithProjection": (CLIPTextModelWithProjection, CLIPTextConfig, CLIPTokenizer),
    "T5EncoderModel": (T5EncoderModel, T5Config, T5Tokenizer),
}
"""By the class that a text encoder's configuration names: model, configuration and tokenizer. No other class is loaded."""

NAMES = ("", "_2", "_3")
BATCH = 64


def encode_captions(folder: Path, model: DiffusionModel, captions: Sequence[str]) -> Conditions:
    """Encode N ``captions`` as the conditions (N, ...) that the pipeline ``folder`` of ``model`` gives them.

    A class-conditional model takes the numbers of its classes, or their names as ``id2label`` in ``model_index.json`` has them.
    Raises :class:`InvalidImages` for a caption that the model cannot take, and :class:`InvalidCheckpoint` for text encoders
    that are missing or cannot be read.
    """
    family, text = family_of(model.denoiser), load_text(folder)
    with torch.no_grad():
        parts = [
            family.encode_captions(model.denoiser, text, list(captions[start : start + BATCH]))
            for start in range(0, len(captions), BATCH)
        ]
    if any(part is None for part in parts):
        raise InvalidImages(
            f"a {type(model.denoiser).__name__} whose pipeline folder has no text_encoder/ and tokenizer/ takes no captions; "
            "add these folders, or leave the captions out"
        )
    return {name: torch.cat([part[name] for part in parts if part]) for name in parts[0] or {}}


def load_text(folder: Path) -> dict[str, Any]:
    """Load a pipeline folder's ``text_encoder``, ``tokenizer``, ``text_encoder_2``, …, and ``id2label``."""
    labels = read_json(folder / "model_index.json").get("id2label")
    found: dict[str, Any] = {"id2label": labels if isinstance(labels, dict) else {}}
    for suffix in NAMES:
        encoder, tokenizer = folder / f"text_encoder{suffix}", folder / f"tokenizer{suffix}"
        if encoder.is_dir() and tokenizer.is_dir():
            found[encoder.name], found[tokenizer.name] = _load(encoder, tokenizer)
    return found


def _load(encoder: Path, tokenizer: Path) -> tuple[Any, Any]:
    config = read_json(encoder / "config.json")
    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else None
    if not isinstance(named, str) or named not in ENCODERS:
        raise InvalidCheckpoint(f"{encoder.name} is a {named!s:.100}; captions are read with {', '.join(ENCODERS)}")
    check_config(config)
    model_class, config_class, tokenizer_class = ENCODERS[named]
    try:
        with torch.device("meta"):
            parameters = sum(value.numel() for value in model_class(config_class.from_dict(config)).parameters())
        if parameters > sum(file.stat().st_size for file in encoder.glob("*.safetensors")):
            raise InvalidCheckpoint(f"{encoder.name}/config.json describes more weights than its .safetensors files hold")
        model = model_class.from_pretrained(encoder, use_safetensors=True, local_files_only=True, dtype=torch.float32)
        return model.eval(), tokenizer_class.from_pretrained(tokenizer, local_files_only=True)
    except InvalidCheckpoint:
        raise
    except Exception as error:  # transformers raises anything for files that no author would write
        raise InvalidCheckpoint(f"{encoder.name}/ or {tokenizer.name}/ cannot be read: {error}") from error
