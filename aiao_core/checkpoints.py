"""Read checkpoints that an attacker may have made, and write the watermarked one.

Nothing in a checkpoint runs: safetensors is read by its own library, a pickle by ``torch.load(weights_only=True)`` alone, and a
configuration is data for a class from a short allow-list.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.key import Architecture

DENOISERS = {"UNet2DModel": UNet2DModel}
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
PREFIXES = ("", "unet.", "module.", "model.", "denoiser.", "_orig_mod.", "model.diffusion_model.")
"""What training frameworks put before the names of a denoiser's weights."""

MAX_CONFIG_BYTES = 64 << 10
MAX_CONFIG_ITEMS = 64
MAX_PIXELS_ASIDE = 4096

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class DiffusionModel:
    """A denoiser in float32 with the noise schedule it was trained on."""

    denoiser: nn.Module
    scheduler: Any
    architecture: Architecture


@dataclass(frozen=True)
class Suspect:
    """A suspect's weights in the registered architecture, and the form in which they came."""

    denoiser: nn.Module
    form: str


def load_model(folder: Path) -> DiffusionModel:
    """The model of a diffusers pipeline folder (``model_index.json``, ``unet/``, ``scheduler/``).

    Raises :class:`WrongArchitecture` for a class that is not supported and :class:`InvalidCheckpoint` for whatever else is
    wrong, naming the layer.
    """
    unet = folder / "unet"
    if not (folder / "model_index.json").is_file() or not unet.is_dir():
        raise InvalidCheckpoint(
            "this is no diffusers pipeline folder: model_index.json or unet/ is missing; "
            "save the pipeline with save_pretrained() and pack that folder as .zip or .tar"
        )
    architecture = _architecture(unet / "config.json")
    denoiser = _build(architecture)
    _fill(denoiser, _read_folder(unet)[0])
    try:
        scheduler = DDPMScheduler.from_config(_read_json(folder / "scheduler" / "scheduler_config.json"))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InvalidCheckpoint(f"scheduler/scheduler_config.json describes no noise schedule: {error}") from error
    if not 1 <= scheduler.config.num_train_timesteps <= 100_000:
        raise InvalidCheckpoint("scheduler_config.json: num_train_timesteps must be between 1 and 100000")
    return DiffusionModel(denoiser, scheduler, architecture)


def load_suspect(path: Path, like: Architecture) -> Suspect:
    """Read a suspect into a denoiser of the architecture ``like``; the suspect's own configuration decides nothing.

    ``path`` is a pipeline folder, a denoiser's folder, a ``.safetensors`` file or a pickle (``.bin``, ``.pt``, ``.ckpt``).
    Raises :class:`WrongArchitecture` if its weights do not fit and :class:`InvalidCheckpoint` if they cannot be read.
    """
    if path.is_dir():
        folder = path / "unet" if (path / "unet").is_dir() else path
        if (folder / "config.json").is_file():
            class_name = _read_json(folder / "config.json").get("_class_name")
            if class_name != like.class_name:
                raise WrongArchitecture(f"the suspect is a {class_name}, but the registered model is a {like.class_name}")
        weights, form = _read_folder(folder)
    else:
        weights, form = _read_weights(path)
    denoiser = _build(like)
    _fill(denoiser, weights)
    return Suspect(denoiser, form)


def save_model(denoiser: nn.Module, source: Path, target: Path) -> None:
    """Copy the pipeline folder ``source`` to the new folder ``target`` with the weights of ``denoiser``, in the source's type.

    Any diffusers user loads it unchanged. ``target`` appears whole or not at all.
    """
    weights, _ = _read_folder(source / "unet")
    partial = target.with_name(target.name + ".partial")
    shutil.copytree(source, partial, ignore=lambda folder, names: _weight_files(names) if Path(folder).name == "unet" else [])
    state = {name: value.to(weights[name].dtype).contiguous() for name, value in denoiser.state_dict().items()}
    save_file(state, partial / "unet" / WEIGHTS, metadata={"format": "pt"})
    partial.rename(target)


def _weight_files(names: list[str]) -> list[str]:
    return [name for name in names if Path(name).suffix in {".safetensors", *PICKLES} or name.endswith(".index.json")]


def _architecture(config_file: Path) -> Architecture:
    config = _read_json(config_file)
    class_name = config.get("_class_name")
    if class_name not in DENOISERS:
        raise WrongArchitecture(f"the denoiser is a {class_name}; supported: {', '.join(DENOISERS)}")
    return Architecture(
        class_name=class_name, config={name: value for name, value in config.items() if not name.startswith("_")}
    )


def _read_json(file: Path) -> dict[str, Any]:
    where = f"{file.parent.name}/{file.name}"
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise InvalidCheckpoint(f"{where} has more than {MAX_CONFIG_BYTES} bytes; that is no configuration")
        document = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InvalidCheckpoint(f"{where} is missing; save the pipeline with save_pretrained()") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidCheckpoint(f"{where} is no readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidCheckpoint(f"{where} holds no JSON object")
    return document


def _build(architecture: Architecture) -> nn.Module:
    """The denoiser without memory for its weights: a hostile configuration costs nothing."""
    config = architecture.config
    for name, value in config.items():
        if isinstance(value, list) and len(value) > MAX_CONFIG_ITEMS:
            raise InvalidCheckpoint(f"unet/config.json: {name} has more than {MAX_CONFIG_ITEMS} items")
    layers_per_block = config.get("layers_per_block", 1)
    if not isinstance(layers_per_block, int) or not 1 <= layers_per_block <= MAX_CONFIG_ITEMS:
        raise InvalidCheckpoint(f"unet/config.json: layers_per_block must be between 1 and {MAX_CONFIG_ITEMS}")
    size = config.get("sample_size")
    sides = size if isinstance(size, list | tuple) else [size or 1]
    if not all(isinstance(side, int) and 1 <= side <= MAX_PIXELS_ASIDE for side in sides) or len(sides) > 2:
        raise InvalidCheckpoint(f"unet/config.json: sample_size must be between 1 and {MAX_PIXELS_ASIDE} pixels")
    try:
        with torch.device("meta"):
            denoiser: nn.Module = DENOISERS[architecture.class_name].from_config(config)
    except Exception as error:  # whatever diffusers raises for values that no author would write
        raise InvalidCheckpoint(f"unet/config.json describes no {architecture.class_name}: {error}") from error
    return denoiser.requires_grad_(False).eval()


def _fill(denoiser: nn.Module, weights: Weights) -> None:
    """Put ``weights`` into ``denoiser``, in float32, after checking every one of them by name."""
    expected = denoiser.state_dict()
    weights = _without_prefix(weights, expected)
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
        if not value.is_floating_point() or value.layout != torch.strided:
            raise InvalidCheckpoint(f"layer {_layer(name)}: {name} is of type {value.dtype}, but weights are floating point")
        weights[name] = value.float()
        if not weights[name].isfinite().all():
            raise InvalidCheckpoint(
                f"layer {_layer(name)}: {name} holds NaN or infinite values; submit the checkpoint as it was published"
            )
    denoiser.load_state_dict(weights, assign=True)
    denoiser.requires_grad_(False)


def _layer(tensor_name: str) -> str:
    return tensor_name.rpartition(".")[0] or tensor_name


def _without_prefix(weights: Weights, expected: Weights) -> Weights:
    best = max(PREFIXES, key=lambda prefix: sum(prefix + name in weights for name in expected))
    return {name.removeprefix(best): value for name, value in weights.items() if name.startswith(best)}


def _read_folder(folder: Path) -> tuple[Weights, str]:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    indices = [file for file in files if file.name.endswith(".safetensors.index.json")]
    if indices:
        return _read_shards(indices[0]), "sharded safetensors folder"
    candidates = [file for file in files if file.suffix == ".safetensors"] or [file for file in files if file.suffix in PICKLES]
    preferred = [file for file in candidates if file.name == WEIGHTS] or candidates
    if not preferred:
        raise InvalidCheckpoint(f"the folder {folder.name} holds no weights: no .safetensors, .bin, .pt or .ckpt file")
    if len(preferred) > 1:
        names = ", ".join(file.name for file in preferred)
        raise InvalidCheckpoint(f"the folder {folder.name} holds several checkpoints ({names}); submit one of them")
    weights, form = _read_weights(preferred[0])
    return weights, f"{form} folder"


def _read_shards(index: Path) -> Weights:
    mapping = _read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        raise InvalidCheckpoint(f"{index.name} has no weight_map; save the checkpoint again")
    weights: Weights = {}
    for name in sorted(set(mapping.values())):
        shard = index.parent / name
        if Path(name).name != name or not shard.is_file():
            raise InvalidCheckpoint(f"{index.name} names the shard {name!r}, which is not in its folder; upload all shards")
        weights |= _read_weights(shard)[0]
    return weights


def _read_weights(file: Path) -> tuple[Weights, str]:
    if file.suffix in PICKLES:
        return _read_pickle(file), "PyTorch pickle"
    try:
        return load_file(file), "safetensors"
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidCheckpoint(
            f"{file.name} is no complete safetensors file ({error}); upload it again, or name a pickle .bin or .pt"
        ) from error


def _read_pickle(file: Path) -> Weights:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle may raise anything, and runs nothing
        raise InvalidCheckpoint(
            f"{file.name} is no pickle of plain weights, and nothing else in it is ever loaded; save the weights as safetensors"
        ) from error
    for _ in range(2):
        for name in ("state_dict", "model", "unet", "ema", "module"):
            if isinstance(content, dict) and isinstance(content.get(name), dict):
                content = content[name]
    if not isinstance(content, dict):
        raise InvalidCheckpoint(f"{file.name} holds no dictionary of weights; save the denoiser's state_dict()")
    weights = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not weights:
        raise InvalidCheckpoint(f"{file.name} holds no weights; save the denoiser's state_dict()")
    return weights
