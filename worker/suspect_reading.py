"""The child's part of reading a suspect: attacker's bytes come in, plain weights of the registered architecture go out."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from aiao_core.errors import AiaoError
from aiao_core.formats.archives import Limits, opened
from aiao_core.formats.suspects import load_suspect, read_denoiser
from aiao_core.formats.weight_files import Weights
from aiao_core.key import Architecture

NEEDS_BASE = "needs-base"


class _NeedsBase(Exception):
    """The suspect is an adapter, and it is not said yet what it changes."""


def read(
    suspect: str,
    base: list[str] | None,
    like: dict[str, Any],
    limits: dict[str, Any],
    scratch: str,
    target: str,
    base_target: str,
) -> dict[str, Any]:
    """Write the suspect's weights to the file ``target``, and those without its adapters, if it has any, to ``base_target``.

    Returns its form, the digest of what was read and the base's name, or the code and sentence of an error. ``suspect`` is a
    file or a folder, ``base`` the file of the model that an adapter changes and that model's name; ``like`` is an
    :class:`Architecture` and ``limits`` are :class:`Limits`, each as JSON.
    """
    tempfile.tempdir = scratch
    architecture, allowed, given = Architecture.model_validate(like), Limits(**limits), Path(suspect)

    def read_base() -> tuple[Weights, str]:
        if base is None:
            raise _NeedsBase
        file, name = base
        with opened(Path(file), allowed) as path:
            weights, form = read_denoiser(path, architecture)
        return weights, f"{name} ({form})"

    try:
        with nullcontext(given) if given.is_dir() else opened(given, allowed) as path:
            found = load_suspect(path, architecture, read_base)
    except _NeedsBase:
        return {"error": NEEDS_BASE}
    except AiaoError as error:
        return {"error": error.code, "detail": str(error)}
    _save(found.denoiser, target)
    if found.base is not None:
        _save(found.base, base_target)
    return {"form": found.form, "weights": found.weights, "base_name": found.base_name}


def _save(denoiser: nn.Module, target: str) -> None:
    save_file({name: value.contiguous() for name, value in denoiser.state_dict().items()}, target)
