"""Captions as conditions, by the text encoders of the owner's own pipeline folder. A verdict never needs this."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
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
from aiao_core.errors import AiaoError, InvalidCheckpoint, InvalidImages, in_words
from aiao_core.formats.pipelines import by_names_of, check_config, check_fit
from aiao_core.formats.weight_files import Weights, read_folder, read_json

ENCODERS: dict[str, tuple[Any, Any, Any]] = {
    "CLIPTextModel": (CLIPTextModel, CLIPTextConfig, CLIPTokenizer),
    "CLIPTextModelWithProjection": (CLIPTextModelWithProjection, CLIPTextConfig, CLIPTokenizer),
    "T5EncoderModel": (T5EncoderModel, T5Config, T5Tokenizer),
}
"""By the class that a text encoder's configuration names: model, configuration and tokenizer. No other class is loaded."""

MEANT = frozenset({
    "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id",
    "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
    "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj",
})  # fmt: skip
"""What counts of a text encoder's configuration: what it is built of. The rest chooses code, files and precision."""

MAX_TOKENS = 512
"""Tokens of a caption for an encoder that names no maximum."""

MAX_POSITIONS = 1 << 16

NAMES = ("", "_2", "_3")
BATCH = 64


def encode_captions(folder: Path, model: DiffusionModel, captions: Sequence[str]) -> Conditions:
    """Encode N ``captions`` as the conditions (N, ...) that the pipeline ``folder`` of ``model`` gives them.

    A class-conditional model takes the numbers of its classes, or their names as ``id2label`` in ``model_index.json`` has them.
    Raises :class:`InvalidImages` for a caption that the model cannot take, and :class:`InvalidCheckpoint` for text encoders
    that are missing or cannot be read.
    """
    if not family_of(model.denoiser).takes_captions:
        raise InvalidImages(f"captions for a {type(model.denoiser).__name__} cannot be encoded here; leave them out")
    text = load_text(folder)
    with torch.no_grad():
        parts = [encode(model, text, list(captions[start : start + BATCH])) for start in range(0, len(captions), BATCH)]
    if any(part is None for part in parts):
        raise InvalidImages(
            f"a {type(model.denoiser).__name__} whose pipeline folder has no text_encoder/ and tokenizer/ takes no captions; "
            "add these folders, or leave the captions out"
        )
    return {name: torch.cat([part[name] for part in parts if part]) for name in parts[0] or {}}


def encode(model: DiffusionModel, text: dict[str, Any], captions: list[str]) -> Conditions | None:
    """Encode a few captions by the tokenizers and text encoders in ``text``; None if the model takes none.

    Raises :class:`InvalidCheckpoint` for tokenizers and encoders that do not fit each other, and :class:`InvalidImages` for a
    caption that the model cannot take.
    """
    try:
        return family_of(model.denoiser).encode_captions(model.denoiser, text, captions)
    except (AiaoError, MemoryError):
        raise
    except Exception as error:  # tokenizers that no author would write raise anything
        raise InvalidCheckpoint(
            f"its tokenizer/ and text_encoder/ cannot encode a caption ({in_words(error)}); save the pipeline with "
            "save_pretrained()"
        ) from error


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
    positions = config.get("max_position_embeddings", MAX_TOKENS)
    if not isinstance(positions, int) or not 1 <= positions <= MAX_POSITIONS:
        raise InvalidCheckpoint(f"{encoder.name}/config.json: max_position_embeddings must be between 1 and {MAX_POSITIONS}")
    model_class, config_class, tokenizer_class = ENCODERS[named]
    weights = read_folder(encoder)[0]
    try:
        model = _filled(model_class, config_class.from_dict({name: config[name] for name in config if name in MEANT}), weights)
        words = tokenizer_class.from_pretrained(tokenizer, local_files_only=True)
        words.model_max_length = min(words.model_max_length, positions)
    except InvalidCheckpoint:
        raise
    except Exception as error:  # transformers raises anything for files that no author would write
        raise InvalidCheckpoint(f"{encoder.name}/ or {tokenizer.name}/ cannot be read: {in_words(error)}") from error
    return model, words


def _filled(model_class: Any, config: Any, weights: Weights) -> Any:
    """Build a text encoder from its configuration and weights alone: nothing else in its folder has a say.

    Transformers' own loader would also read adapters beside it, whose patterns and classes an attacker may choose.
    """
    with torch.device("meta"):  # without memory, until it is known that the weights are there
        plan = model_class(config)
    if sum(value.numel() for value in plan.parameters()) > sum(value.numel() for value in weights.values()):
        raise InvalidCheckpoint("the config.json of a text encoder describes more weights than its files hold")
    expected = plan.state_dict()
    found = {name: value.float() for name, value in by_names_of(plan, weights).items() if name in expected}
    check_fit(found, {name: expected[name] for name in found})
    with init_empty_weights(include_buffers=False):
        model = model_class(config)
    model.load_state_dict(found, strict=False, assign=True)
    model.tie_weights()
    if missing := [name for name, value in model.named_parameters() if value.is_meta]:
        raise InvalidCheckpoint(f"{missing[0]} and {len(missing) - 1} more tensors of the text encoder are missing")
    return model.requires_grad_(False).eval()
