"""The worker's part of reading what clients uploaded: a confined child reads it, for an attacker may have made it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from torch import nn

from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.scheduler_configs import noise_schedule
from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.pipelines import build, fill, try_out
from aiao_core.key import Architecture
from aiao_core.method.acceleration import accelerator
from aiao_core.method.embedding import own_examples
from aiao_core.method.fine_tuning import Examples
from aiao_core.options import EmbeddingOptions
from aiao_core.verification.examine import NamedFile, ParsedSuspect
from service.kit.telemetry import span
from worker import answers, reading
from worker.running import Work
from worker.sandbox.client import ChildEnded, confined

Answer = TypeVar("Answer", bound=BaseModel)


def read_suspect(suspect: Path, like: Architecture, base: NamedFile | None = None, *, work: Work) -> ParsedSuspect:
    """Read a suspect.

    Raises as :func:`aiao_core.formats.suspects.load_suspect` does, and :class:`InvalidCheckpoint` if the child ended over it.
    """
    room = work.room()
    target, base_target = room / "suspect.safetensors", room / "base.safetensors"
    answer = _ask(
        work,
        answers.ReadSuspect,
        reading.read_suspect,
        {
            "suspect": str(suspect),
            "base": base and [str(base[0]), base[1]],
            "like": like.model_dump(mode="json"),
            "target": str(target),
            "base_target": str(base_target),
        },
        room,
        [suspect, base[0]] if base else [suspect],
        advice="submit the denoiser alone, as plain safetensors",
    )
    return ParsedSuspect(
        answer.form,
        answer.weights,
        partial(_load, target, like),
        partial(_load, base_target, like) if answer.base_name else None,
        answer.base_name,
        answer.base_given,
    )


def read_source(source: Path, like: Architecture, *, work: Work) -> nn.Module:
    """Read the denoiser of a registered model before the watermark, a control of every test. A job reads it several times."""
    room = work.scratch / f"read-{source.name}"
    target = room / "source.safetensors"
    if not target.exists():
        room.mkdir(exist_ok=True)
        arguments = {"source": str(source), "like": like.model_dump(mode="json"), "target": str(target)}
        _ask(work, answers.Done, reading.read_source, arguments, room, [source])
    return _load(target, like)


def read_model(model: Path, *, work: Work) -> Callable[[], DiffusionModel]:
    """Read the model of a packed pipeline folder, and return how to load it, as often as needed.

    Raises as :func:`aiao_core.formats.pipelines.load_model` does.
    """
    room = work.room()
    target = room / "model.safetensors"
    answer = _ask(work, answers.ReadModel, reading.read_model, {"model": str(model), "target": str(target)}, room, [model])
    architecture, schedule = answer.architecture, noise_schedule(answer.scheduler)
    return lambda: DiffusionModel(_load(target, architecture, tried=False), schedule, architecture)


@span("examples")
def examples_for(
    model: DiffusionModel, pipeline: Path, images: Path | None, options: EmbeddingOptions, *, work: Work
) -> Examples:
    """Read an owner's image set as ``model``, of the packed ``pipeline``, takes it; without one the model draws its own.

    Raises as :func:`aiao_core.data.owner_data.load_examples` does.
    """
    room = work.room()
    target = room / "examples.safetensors"
    arguments = {
        "model": str(pipeline),
        "images": images and str(images),
        "count": options.samples,
        "target": str(target),
    }
    # A large set takes as long as the job may: each image is encoded.
    seconds = (work.context.settings.job_seconds or math.inf) if images else None
    readable = [pipeline, images] if images else [pipeline]
    _ask(work, answers.Done, reading.read_examples, arguments, room, readable, seconds=seconds)
    tensors = answers.read_tensors(target)
    clean = tensors.pop(reading.CLEAN, torch.empty(0)) if images else None
    count = options.samples if clean is None else len(clean)
    conditions = {name.removeprefix(reading.CONDITION): value for name, value in tensors.items()}
    answers.check_examples(model, clean, conditions, count)
    conditions = {name: value.expand(count, *value.shape[1:]) for name, value in conditions.items()}
    if clean is not None:
        return Examples(clean, conditions)
    return own_examples(model, options, conditions, work.progress)


def write_marked(pipeline: Path, weights: Path, *, work: Work) -> Path:
    """Pack ``pipeline`` again, with other weights of its denoiser; return the archive."""
    room = work.room()
    target = room / "marked.zip"
    arguments = {"model": str(pipeline), "weights": str(weights), "target": str(target)}
    _ask(work, answers.Done, reading.write_marked, arguments, room, [pipeline, weights])
    if target.is_symlink() or not target.is_file():
        raise InvalidCheckpoint("the process that was to pack this model left no archive; register the model again")
    return target


def _ask(
    work: Work,
    kind: type[Answer],
    function: Callable[..., dict[str, Any]],
    arguments: dict[str, Any],
    room: Path,
    readable: Sequence[Path],
    *,
    seconds: float | None = None,
    advice: str = "register the model as plain safetensors, and each image as PNG, JPEG or WebP",
) -> Answer:
    """Return the child's answer. Raises the error that it tells of."""
    settings = work.context.settings
    try:
        answer = confined(
            function,
            arguments | {"limits": asdict(work.limits)},
            room=room,
            readable=readable,
            seconds=seconds or settings.suspect_seconds,
            memory_bytes=settings.suspect_memory_bytes,
            check=work.check,
        )
        return answers.parse(kind, answer)
    except ChildEnded as error:
        what = "suspect" if function is reading.read_suspect else "model"
        raise InvalidCheckpoint(
            f"the process that was to read this {what} ended without a result: {error}; {advice}"
        ) from error


def _load(file: Path, like: Architecture, *, tried: bool = True) -> nn.Module:
    """Build the denoiser and fill it; ``tried`` says whether it is known that one of this architecture can be run."""
    denoiser = build(like)
    fill(denoiser, answers.read_tensors(file))
    if not tried:
        try_out(denoiser, like)
    return denoiser.to(accelerator().device)
