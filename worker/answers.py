"""What a confined child may answer: its word and its files are looked at before use, for an attacker may speak by then."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from aiao_core import errors
from aiao_core.denoisers import Conditions, Inputs, family_of, predict
from aiao_core.denoisers.family import select
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.errors import InvalidCheckpoint, printable
from aiao_core.key import DIGEST, Architecture
from worker.sandbox.client import ChildEnded

MAX_SENTENCE = 20_000
"""Characters of a sentence: the form of a suspect of many files names each of them."""

MAX_TOKENS = 4096
"""Tokens of one caption: the text encoders of a model give at most 512 each."""

REFUSALS: dict[str, type[errors.AiaoError]] = {
    error.code: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, InvalidCheckpoint | errors.UnsafeArchive | errors.InvalidImages)
} | {errors.MissingDependency.code: errors.MissingDependency}
"""Errors that a reader of clients' files raises, by their code."""


def _line(text: str) -> str:
    return printable(text[:MAX_SENTENCE])


Line = Annotated[str, AfterValidator(_line)]


class Refusal(BaseModel):
    """An error of ours that reading ended with."""

    error: str
    detail: Line

    def raised(self) -> errors.AiaoError:
        return REFUSALS.get(self.error, InvalidCheckpoint)(self.detail)


class Done(BaseModel):
    """The answer of a call that only writes a file."""


class ReadSuspect(BaseModel):
    """Of the weights that were read, which lie in a file."""

    form: Line
    weights: Annotated[str, Field(pattern=DIGEST)]
    base_name: Line | None
    base_given: bool


class ReadModel(BaseModel):
    architecture: Architecture
    scheduler: dict[str, Any]


Answer = TypeVar("Answer", bound=BaseModel)


def parse(kind: type[Answer], answer: dict[str, Any]) -> Answer:
    """Return a child's answer. Raise the error that it tells of, and :class:`ChildEnded` for one that means nothing."""
    try:
        if "error" in answer:
            raise Refusal.model_validate(answer).raised()
        return kind.model_validate(answer)
    except ValidationError as error:
        raise ChildEnded("it gave no answer that can be used") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read what a child wrote as safetensors. Raises :class:`InvalidCheckpoint`."""
    try:
        if file.is_symlink() or not file.is_file():
            raise ValueError("the file is missing")
        return load_file(file)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InvalidCheckpoint(
            "the process that was to read this file left no weights that can be read; submit it as plain safetensors"
        ) from error


def check_examples(model: DiffusionModel, clean: Tensor | None, conditions: Conditions, count: int) -> None:
    """Raise :class:`InvalidCheckpoint` unless ``model`` can be trained on these."""
    config = model.architecture.config
    shape: tuple[int, ...] = family_of(model.denoiser).shape(config)
    fits = clean is None or _are_images(clean, shape)
    if clean is not None:
        shape = tuple(clean.shape[1:])
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm") or 0
    if fits and all(_is_condition(value, count) and _is_sound(value, classes) for value in conditions.values()):
        inputs = Inputs(torch.zeros(1, *shape), torch.tensor([1]), select(conditions, slice(0, 1)))
        try:
            with torch.no_grad():
                device = next(model.denoiser.parameters()).device
                if predict(model.denoiser, inputs.to(device)).shape == (1, *shape):
                    return
        except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
            if "out of memory" in str(error) or "allocate memory" in str(error):
                raise
    raise InvalidCheckpoint(
        "the process that was to read these images left none that the model can be trained on; register each as PNG, JPEG or "
        "WebP, and the model as plain safetensors"
    )


def _are_images(clean: Tensor, shape: tuple[int, ...]) -> bool:
    """Return whether these are images or latents of the model's channels, and not larger than it works at."""
    if clean.dim() != 4 or len(clean) == 0 or clean.dtype != torch.float32:
        return False
    return (
        clean.shape[1] == shape[0] and min(clean.shape[2:]) >= 1 and max(clean.shape[2:]) <= max(shape[1:]) and _is_sound(clean)
    )


def _is_condition(value: Tensor, count: int) -> bool:
    return value.dim() >= 1 and len(value) in (1, count) and (value.dim() < 3 or value.shape[1] <= MAX_TOKENS)


def _is_sound(value: Tensor, classes: int = 0) -> bool:
    """Return whether numbers are finite, or those of classes there are: another one would stop a GPU for the jobs after it."""
    if value.is_floating_point():
        return bool(value.isfinite().all())
    return value.dim() > 1 or bool(((value >= 0) & (value < classes)).all())
