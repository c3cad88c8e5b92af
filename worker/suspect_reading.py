"""The child's part of reading a suspect: attacker's bytes come in, plain weights of the registered architecture go out."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from aiao_core.errors import AiaoError
from aiao_core.formats.archives import Limits
from aiao_core.formats.suspects import base_in, load_suspect
from aiao_core.key import Architecture


def read(
    suspect: str,
    base: list[str] | None,
    like: dict[str, Any],
    limits: dict[str, Any],
    target: str,
    base_target: str,
) -> dict[str, Any]:
    """Write the suspect's weights to the file ``target``, and those without its adapters, if it has any, to ``base_target``.

    Returns the suspect's form, the digest of its weights, its base's name and whether that is the given one, or the code and
    sentence of an error. ``suspect`` is a file or a folder, ``base`` the file of the model that an adapter changes and that
    model's name; ``like`` is an :class:`Architecture` and ``limits`` are :class:`Limits`, each as JSON.
    """
    architecture, allowed = Architecture.model_validate(like), Limits(**limits)
    known_base = base_in(Path(base[0]), base[1], architecture, allowed) if base else None
    try:
        found = load_suspect(Path(suspect), architecture, known_base, allowed)
    except AiaoError as error:
        return {"error": error.code, "detail": str(error)}
    _save(found.denoiser, target)
    if found.base is not None:
        _save(found.base, base_target)
    return {"form": found.form, "weights": found.weights, "base_name": found.base_name, "base_given": found.base_given}


def _save(denoiser: nn.Module, target: str) -> None:
    save_file({name: value.contiguous() for name, value in denoiser.state_dict().items()}, target)
