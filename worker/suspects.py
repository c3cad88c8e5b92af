"""Suspects are read in a confined child process, because an attacker made them."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from aiao_core import errors
from aiao_core.errors import InvalidCheckpoint, printable
from aiao_core.formats.pipelines import build, fill
from aiao_core.key import Architecture
from aiao_core.method.acceleration import accelerator
from aiao_core.verification.examine import NamedFile, ParsedSuspect
from worker.running import Work
from worker.sandbox.client import ChildEnded, confined
from worker.suspect_reading import read

ERRORS: dict[str, type[errors.AiaoError]] = {
    error.code: error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.AiaoError)
}


def read_confined(suspect: Path, like: Architecture, base: NamedFile | None = None, *, work: Work) -> ParsedSuspect:
    """Read a suspect in a child, which leaves plain weights in files of the scratch folder.

    Raises as :func:`aiao_core.formats.suspects.load_suspect` does, and :class:`InvalidCheckpoint` if the child ended over it.
    """
    room = work.room()
    target, base_target = room / "suspect.safetensors", room / "base.safetensors"
    settings = work.context.settings
    try:
        answer = confined(
            read,
            {
                "suspect": str(suspect),
                "base": base and [str(base[0]), base[1]],
                "like": like.model_dump(mode="json"),
                "limits": asdict(work.limits),
                "target": str(target),
                "base_target": str(base_target),
            },
            room=room,
            readable=[suspect, base[0]] if base else [suspect],
            seconds=settings.suspect_seconds,
            memory_bytes=settings.suspect_memory_bytes,
            check=work.check,
        )
    except ChildEnded as error:
        raise InvalidCheckpoint(
            f"the process that was to read this suspect ended without a result: {error}; submit the denoiser alone, as "
            "plain safetensors"
        ) from error
    if "error" in answer:
        raise ERRORS.get(str(answer["error"]), InvalidCheckpoint)(str(answer.get("detail")))
    name = answer.get("base_name")
    return ParsedSuspect(
        printable(str(answer["form"])),
        printable(str(answer["weights"])),
        partial(_load, target, like),
        partial(_load, base_target, like) if name else None,
        name and printable(str(name)),
        bool(answer.get("base_given")),
    )


def _load(file: Path, like: Architecture) -> nn.Module:
    denoiser = build(like)
    fill(denoiser, load_file(file))
    return denoiser.to(accelerator().device)
