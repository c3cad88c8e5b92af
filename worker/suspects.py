"""A suspect as a denoiser: read in a confined child, for it is attacker-made."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from aiao_core import errors
from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.pipelines import build, fill
from aiao_core.key import Architecture
from aiao_core.method.acceleration import accelerator
from service.kit.telemetry import span
from worker.confinement import ChildEnded, confined
from worker.running import Work
from worker.suspect_reading import NEEDS_BASE, read

ERRORS: dict[str, type[errors.AiaoError]] = {
    error.code: error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.AiaoError)
}


@dataclass(frozen=True)
class Reading:
    """A suspect that could be read: its plain weights in files, the form in which it came, and the digest of what was read."""

    like: Architecture
    file: Path
    form: str
    weights: str
    base_file: Path
    base_name: str | None
    """None for a suspect without adapters, which has no base."""

    def load(self) -> nn.Module:
        """The suspect as a denoiser."""
        return self._denoiser(self.file)

    def load_base(self) -> nn.Module:
        """The denoiser without the adapters."""
        return self._denoiser(self.base_file)

    def _denoiser(self, file: Path) -> nn.Module:
        denoiser = build(self.like)
        fill(denoiser, load_file(file))
        return denoiser.to(accelerator().device)


@span("read suspect")
def read_suspect(work: Work, suspect: Path, like: Architecture, base: Callable[[], tuple[Path, str]]) -> Reading:
    """Read the suspect at ``suspect``, a file or a folder, as one of the architecture ``like``.

    ``base`` is called for an adapter alone, for the file of the model that it changes, and that model's name; it may raise
    :class:`aiao_core.errors.AdapterWithoutBase`. Raises as :func:`aiao_core.formats.suspects.load_suspect` does, and
    :class:`InvalidCheckpoint` if the child ended over it.
    """
    target, base_target = work.scratch / "suspect.safetensors", work.scratch / "base.safetensors"

    def answer(known_base: tuple[Path, str] | None) -> dict[str, Any]:
        settings = work.context.settings
        try:
            return confined(
                read,
                {
                    "suspect": str(suspect),
                    "base": known_base and [str(known_base[0]), known_base[1]],
                    "like": like.model_dump(mode="json"),
                    "limits": asdict(work.limits),
                    "scratch": str(work.scratch),
                    "target": str(target),
                    "base_target": str(base_target),
                },
                seconds=settings.suspect_seconds,
                memory_bytes=settings.suspect_memory_bytes,
                check=work.check,
            )
        except ChildEnded as error:
            raise InvalidCheckpoint(
                f"the process that was to read this suspect ended without a result: {error}; submit the denoiser alone, as "
                "plain safetensors"
            ) from error

    found = answer(None)
    if found.get("error") == NEEDS_BASE:
        found = answer(base())
    if "error" in found:
        raise ERRORS.get(str(found["error"]), InvalidCheckpoint)(str(found.get("detail")))
    name = found.get("base_name")
    return Reading(
        like,
        target,
        errors.printable(str(found["form"])),
        errors.printable(str(found["weights"])),
        base_target,
        name and errors.printable(str(name)),
    )
