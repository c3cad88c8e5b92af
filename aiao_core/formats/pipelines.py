"""Registered models: read a pipeline folder that an attacker may have made, and write the watermarked one.

A configuration is data for a class of a known family; nothing in a checkpoint runs.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import nn

from aiao_core.denoisers import Inputs, family_named, predict
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.denoisers.scheduler_configs import noise_schedule
from aiao_core.errors import InvalidCheckpoint, WrongArchitecture, in_words
from aiao_core.formats.folders import files_in
from aiao_core.formats.foreign import ORDINARY
from aiao_core.formats.names import common_prefix, with_today_words, without_prefix
from aiao_core.formats.weight_files import WEIGHTS, Weights, is_floating, is_index, read_folder, read_json
from aiao_core.key import Architecture

MAX_CONFIG_ITEMS = 64
MAX_LAYERS = 256
MAX_MODULES = 4096
MAX_LENGTH = 1 << 12
"""Most tokens or positions of a denoiser that its configuration names a length: inputs and embeddings are as long."""

MAX_NUMBER = 1 << 24
"""Greatest other number of a denoiser's configuration: positions are computed from some of them, whatever the weights are."""

COUNTED = ("layers", "blocks", "experts")
"""Parts of the names in a configuration that say how many modules there are."""

NOT_BUILT = {"llama_layers", "num_activated_experts"}
"""Names of this kind that choose among what is there."""

DENOISERS = ("unet", "transformer")
MAX_PIXELS_ASIDE = 4096
MAX_BUFFER_BYTES = 1 << 30


def load_model(folder: Path) -> DiffusionModel:
    """Load the model of a diffusers pipeline folder: ``model_index.json``, ``scheduler/``, and ``unet/`` or ``transformer/``.

    Raises :class:`WrongArchitecture` for a class that is not supported and :class:`InvalidCheckpoint` for everything else that
    is wrong, naming the layer.
    """
    part = _denoiser_folder(folder)
    config = read_json(part / "config.json")
    family = family_named(config.get("_class_name"))
    architecture = Architecture(
        class_name=family.denoiser.__name__,
        config={name: value for name, value in config.items() if not name.startswith("_")},
    )
    denoiser = build(architecture)
    fill(denoiser, by_names_of(denoiser, read_folder(part)[0]))
    try_out(denoiser, architecture)
    return DiffusionModel(denoiser, noise_schedule(scheduler_config(folder)), architecture)


def scheduler_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a pipeline folder's scheduler. Raises :class:`InvalidCheckpoint` if there is none."""
    return read_json(folder / "scheduler" / "scheduler_config.json")


def try_out(denoiser: nn.Module, architecture: Architecture) -> None:
    """Run one small forward pass, to refuse a model that its family cannot run before, not during, its embedding."""
    family, config = family_named(architecture.class_name), architecture.config
    generator = torch.Generator().manual_seed(0)
    try:
        noisy = torch.randn((1, *family.monte_carlo_shape(config)), generator=generator)
        inputs = Inputs(noisy, torch.tensor([1]), family.random_conditions(config, 1, generator))
        with torch.no_grad():
            shape = predict(denoiser, inputs).shape
    except WrongArchitecture:
        raise
    except Exception as error:  # a network may raise anything for a configuration that its family does not know
        raise WrongArchitecture(
            f"a {architecture.class_name} of this configuration cannot be run ({in_words(error)}); a family of your own can "
            "serve it, see docs/families.md"
        ) from error
    if shape != noisy.shape:
        raise WrongArchitecture(
            f"the denoiser takes {noisy.shape[1]} channels and predicts {shape[1]}, as models for inpainting do; "
            "register the model that it was made from"
        )


def save_model(denoiser: nn.Module, source: Path, target: Path) -> None:
    """Copy the pipeline folder ``source`` to the new folder ``target`` with the weights of ``denoiser``, in the source's type.

    Any diffusers user loads it unchanged. Other files that may hold the denoiser without its mark stay behind: a single file
    beside the folders, saves of the training, an ONNX or Flax export. ``target`` appears whole or not at all.
    """
    part = _denoiser_folder(source)
    weights = by_names_of(denoiser, read_folder(part)[0])
    partial = target.with_name(target.name + ".partial")
    (partial / part.name).mkdir(parents=True)
    for file in _beside_denoiser(source, part):
        copied = partial / file.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)  # not its dates and mode, which a confined process may not set
    state = {name: value.to(weights[name].dtype).contiguous() for name, value in denoiser.state_dict().items()}
    save_file(state, partial / part.name / WEIGHTS, metadata={"format": "pt"})
    partial.rename(target)


def _beside_denoiser(source: Path, part: Path) -> Iterator[Path]:
    """Yield the files of a pipeline folder's other parts, which ``model_index.json`` names, and its texts and pictures."""
    others = {name for name, value in read_json(source / "model_index.json").items() if isinstance(value, list)} - {part.name}
    for file in files_in(source):
        top, *inside = file.relative_to(source).parts
        if (inside and top in others) or (file.suffix.lower() in ORDINARY and not is_index(file.name)):
            yield file


def denoiser_folder(folder: Path) -> Path | None:
    """Return where a pipeline folder keeps its denoiser, or None for another folder.

    Raises :class:`InvalidCheckpoint` for a pipeline of several denoisers, as Wan 2.2 has: none of them is left out unsaid.
    """
    found = [part for name in DENOISERS for part in (folder / name, folder / f"{name}_2") if part.is_dir()]
    if len(found) > 1:
        names = " and ".join(f"{part.name}/" for part in found)
        raise InvalidCheckpoint(
            f"this pipeline has {len(found)} denoisers, {names}, and a key marks one; make a copy of the folder for each, "
            f"which holds that one alone, as {found[0].name}/, and submit the copies one by one"
        )
    return found[0] if found and not found[0].name.endswith("_2") else None


def _denoiser_folder(folder: Path) -> Path:
    part = denoiser_folder(folder)
    if not (folder / "model_index.json").is_file() or part is None:
        raise InvalidCheckpoint(
            "this is no diffusers pipeline folder: model_index.json, or unet/ or transformer/, is missing; "
            "save the pipeline with save_pretrained() and pack that folder as .zip or .tar"
        )
    return part


def untrained(architecture: Architecture, seed: int = 0) -> nn.Module:
    """Return a denoiser of the architecture as training would begin with it."""
    family = family_named(architecture.class_name)
    check_config(architecture.config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser: nn.Module = family.denoiser.from_config(architecture.config)  # type: ignore[attr-defined]
    return denoiser.requires_grad_(False).eval()


def build(architecture: Architecture) -> nn.Module:
    """Build the denoiser without memory for its weights, so that a hostile configuration costs nothing."""
    return build_class(family_named(architecture.class_name).denoiser, architecture.config)


def build_class(module_class: Any, config: dict[str, Any]) -> nn.Module:
    """Build a diffusers module of a configuration, without memory for its weights. Raises :class:`InvalidCheckpoint`."""
    check_config(config)
    for name, value in config.items():
        most = MAX_LENGTH if "lens" in name or "length" in name else MAX_NUMBER
        if any(isinstance(number, int | float) and not -most <= number <= most for number in _numbers(value)):
            raise InvalidCheckpoint(f"config.json: {name} is beyond {most}")
    try:
        with torch.device("meta"):
            module: nn.Module = module_class.from_config(config)
    except Exception as error:  # diffusers may raise anything for values that no author would write
        raise InvalidCheckpoint(f"config.json describes no {module_class.__name__}: {in_words(error)}") from error
    return module.requires_grad_(False).eval()


def check_config(config: dict[str, Any]) -> None:
    """Raise unless the values that decide how many modules there are, and how large an input is, are of a sensible size."""
    modules = 1
    for name, value in config.items():
        if isinstance(value, list) and len(value) > MAX_CONFIG_ITEMS:
            raise InvalidCheckpoint(f"config.json: {name} has more than {MAX_CONFIG_ITEMS} items")
        counts = any(word in name for word in COUNTED)
        if counts and not all(isinstance(count, int) and 0 <= count <= MAX_LAYERS for count in _numbers(value)):
            raise InvalidCheckpoint(f"config.json: {name} must be between 0 and {MAX_LAYERS}")
        if counts and name not in NOT_BUILT:
            modules *= max([1, *_numbers(value)])
    if modules > MAX_MODULES:
        raise InvalidCheckpoint(f"config.json: its numbers of layers multiply to {modules}; at most {MAX_MODULES} are built")
    sides = list(_numbers(config.get("sample_size") or 1))
    of_video = [config.get(f"sample_{name}") or 1 for name in ("frames", "height", "width")]
    if not all(isinstance(side, int) and 1 <= side <= MAX_PIXELS_ASIDE for side in sides + of_video) or len(sides) > 2:
        raise InvalidCheckpoint(f"config.json: sample_size must be between 1 and {MAX_PIXELS_ASIDE} pixels")


def _numbers(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the items of a value that may be a number, absent, or a list of such, at most two lists deep."""
    if isinstance(value, list | tuple) and depth < 2:
        for item in value:
            yield from _numbers(item, depth + 1)
    elif value is not None and not isinstance(value, bool):
        yield value


def fill(denoiser: nn.Module, weights: Weights) -> None:
    """Put ``weights`` into ``denoiser``, in float32, after checking every one of them by name.

    Raises :class:`WrongArchitecture` or :class:`InvalidCheckpoint`, naming the layer.
    """
    check_fit(weights, denoiser.state_dict())
    weights = {name: value.float() for name, value in weights.items()}
    for name, value in weights.items():
        if not value.isfinite().all():
            raise InvalidCheckpoint(
                f"layer {_layer(name)}: {name} holds NaN or infinite values; submit the checkpoint as it was published"
            )
    denoiser.load_state_dict(weights, assign=True)
    _compute_buffers(denoiser)
    denoiser.requires_grad_(False)


def check_fit(weights: Weights, expected: Weights) -> None:
    """Check that every tensor of ``expected`` is there in its shape, and nothing else is. Copies nothing.

    A small file can describe tensors of any size: ask here before computing with them. Raises :class:`WrongArchitecture` or
    :class:`InvalidCheckpoint`, naming the layer.
    """
    if missing := [name for name in expected if name not in weights]:
        raise WrongArchitecture(
            f"layer {_layer(missing[0])} is missing ({missing[0]}, and {len(missing) - 1} more of {len(expected)} tensors); "
            "the checkpoint is incomplete or of another architecture"
        )
    if extra := [name for name in weights if name not in expected]:
        raise WrongArchitecture(
            f"layer {_layer(extra[0])} ({extra[0]}, and {len(extra) - 1} more tensors) does not exist in the architecture; "
            "remove what does not belong to the denoiser"
        )
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise WrongArchitecture(
                f"layer {_layer(name)}: {name} has the shape {tuple(value.shape)}, but the architecture has "
                f"{tuple(expected[name].shape)}"
            )
        if not is_floating(value):
            raise InvalidCheckpoint(f"layer {_layer(name)}: {name} is of type {value.dtype}, but weights are floating point")


def _compute_buffers(denoiser: Any) -> None:
    """Give their values to tensors that no checkpoint holds, such as the position embedding of a transformer.

    Most are buffers; some transformers keep them as plain attributes, alone or in a list.
    """
    missing = {name: buffer.nbytes for name, buffer in denoiser.named_buffers() if buffer.is_meta}
    plain = [(name, attribute, size) for name, part in denoiser.named_modules() for attribute, size in _plain_tensors(part)]
    if sum(missing.values()) + sum(size for *_, size in plain) > MAX_BUFFER_BYTES:
        raise InvalidCheckpoint(f"config.json: its sizes ask for {MAX_BUFFER_BYTES} bytes of position embedding or more")
    if missing or plain:
        with init_empty_weights(include_buffers=False):
            computed = type(denoiser).from_config(denoiser.config)
        for name in missing:
            module, _, buffer = name.rpartition(".")
            denoiser.get_submodule(module).register_buffer(buffer, computed.get_buffer(name), persistent=False)
        for module, attribute, _ in plain:
            setattr(denoiser.get_submodule(module), attribute, getattr(computed.get_submodule(module), attribute))


def _plain_tensors(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the attributes of a module that are tensors without memory, or lists of such, and the bytes that they stand for."""
    for name, value in vars(module).items():
        tensors = [each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, torch.Tensor)]
        if any(each.is_meta for each in tensors):
            yield name, sum(each.nbytes for each in tensors)


def by_names_of(module: nn.Module, weights: Weights) -> Weights:
    """Return ``weights`` by the names that ``module`` has, without what a framework put before them, and not by old names."""
    expected = module.state_dict()
    return with_today_words(without_prefix(weights, common_prefix(weights, expected)), expected)


def _layer(tensor_name: str) -> str:
    return tensor_name.rpartition(".")[0] or tensor_name
