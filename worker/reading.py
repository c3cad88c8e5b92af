"""The confined child's part: attacker's bytes come in, plain weights and JSON go out.

Every function takes and returns JSON, names files by their paths, and tells of a file that cannot be used by the code and the
sentence of its error. ``limits`` are :class:`Limits`, ``like`` is an :class:`Architecture`.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aiao_core.data.owner_data import load_examples, uncaptioned
from aiao_core.errors import AiaoError
from aiao_core.formats.archives import Limits, pack
from aiao_core.formats.pipelines import load_model, scheduler_config
from aiao_core.formats.single_files import registered_model
from aiao_core.formats.suspects import base_in, load_source, load_suspect
from aiao_core.key import Architecture

Json = dict[str, Any]
CLEAN, CONDITION = "clean", "condition."
"""Names of tensors in a file of examples."""


def telling(function: Callable[..., Json]) -> Callable[..., Json]:
    """Let ``function`` answer with the code and sentence of an error of ours that it raises."""

    @wraps(function)
    def tell(**arguments: Any) -> Json:
        try:
            return function(**arguments)
        except AiaoError as error:
            return {"error": error.code, "detail": str(error)}

    return tell


@telling
def read_suspect(suspect: str, base: list[str] | None, like: Json, limits: Json, target: str, base_target: str) -> Json:
    """Write the suspect's weights to the file ``target``, and those without its adapters, if it has any, to ``base_target``.

    Returns the suspect's form, the digest of its weights, its base's name and whether that is the given one. ``suspect`` is a
    file or a folder, ``base`` the file of the model that an adapter changes and that model's name.
    """
    architecture, allowed = Architecture.model_validate(like), Limits(**limits)
    known_base = base_in(Path(base[0]), base[1], architecture, allowed) if base else None
    found = load_suspect(Path(suspect), architecture, known_base, allowed)
    _save(found.denoiser, target)
    if found.base is not None:
        _save(found.base, base_target)
    return {"form": found.form, "weights": found.weights, "base_name": found.base_name, "base_given": found.base_given}


@telling
def read_source(source: str, like: Json, limits: Json, target: str) -> Json:
    """Write the weights of a registered model before the watermark to the file ``target``."""
    _save(load_source(Path(source), Architecture.model_validate(like), Limits(**limits)), target)
    return {}


@telling
def read_model(model: str, limits: Json, target: str) -> Json:
    """Write a pipeline's denoiser to the file ``target``; return its architecture and its scheduler's configuration."""
    with registered_model(Path(model), Limits(**limits)) as registered:
        loaded = load_model(registered.folder)
        _save(loaded.denoiser, target)
        return {"architecture": loaded.architecture.model_dump(mode="json"), "scheduler": scheduler_config(registered.folder)}


@telling
def read_examples(model: str, images: str | None, count: int, limits: Json, target: str) -> Json:
    """Write an owner's image set to the file ``target``, as the model of a pipeline takes it.

    Without ``images`` it writes the conditions of ``count`` samples that the model is to draw under an empty caption; if all
    are alike, of one.
    """
    allowed = Limits(**limits)
    with registered_model(Path(model), allowed) as registered:
        folder = registered.folder
        loaded = load_model(folder)
        if images is None:
            clean, conditions = {}, uncaptioned(folder, loaded, count)
        else:
            examples = load_examples(folder, loaded, Path(images), allowed)
            clean, conditions = {CLEAN: examples.clean}, examples.conditions
        named = {f"{CONDITION}{name}": _once(value) for name, value in conditions.items()}
        save_file({name: value.contiguous() for name, value in (clean | named).items()}, target)
    return {}


@telling
def write_marked(model: str, weights: str, limits: Json, target: str) -> Json:
    """Pack a model with other ``weights`` of its denoiser, a file of ours, as the archive ``target``.

    It holds a pipeline folder, and beside its parts the single file, if the model came as one.
    """
    room = Path(target).parent
    with registered_model(Path(model), Limits(**limits)) as registered:
        denoiser = load_model(registered.folder).denoiser
        denoiser.load_state_dict(load_file(weights))
        registered.save(denoiser, room / "marked")
    pack(room / "marked", Path(target))
    return {}


def _once(value: Tensor) -> Tensor:
    """Return one row of a tensor that repeats it without memory of its own."""
    return value[:1] if value.dim() and value.stride(0) == 0 else value


def _save(denoiser: nn.Module, target: str) -> None:
    save_file({name: value.contiguous() for name, value in denoiser.state_dict().items()}, target)
