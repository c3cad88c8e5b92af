"""Registered models in one file: make a pipeline folder of it, and put marked weights back in its form.

A single file says nothing of its configuration and noise schedule. Its tensors tell which published model it was made from, or
the configurations lie beside it, in a folder as diffusers' repositories have them. Nothing is guessed: a file that fits two
models with different schedules is refused.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from aiao_core.errors import AdapterWithoutBase, InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.archives import Limits, opened
from aiao_core.formats.folders import files_in
from aiao_core.formats.identify import identify_path
from aiao_core.formats.known_models import KNOWN_MODELS, V_PREDICTION, ZERO_TERMINAL_SNR, KnownModel
from aiao_core.formats.layouts import Rows
from aiao_core.formats.names import COMPANION_PREFIXES, MARKERS
from aiao_core.formats.original_layouts import check_layout, original_names, to_diffusers
from aiao_core.formats.pipelines import build, check_fit, denoiser_folder, save_model, scheduler_config
from aiao_core.formats.quantized import FP8, dequantize
from aiao_core.formats.recognize import Recognized, recognize
from aiao_core.formats.weight_files import WEIGHTS, Weights, is_weights, read_json, read_tensors, without_markers
from aiao_core.key import Architecture

MARKED = "marked.safetensors"
"""The name of the marked single file beside the marked pipeline folder's parts."""

MOVING_AVERAGES = "model_ema."
HASHES = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""Metadata that would be false of other weights."""


@dataclass(frozen=True)
class SingleFile:
    """A single file that was recognized as a model."""

    path: Path
    model: KnownModel
    recognized: Recognized
    tensors: Weights
    """All that the file holds, by the names in it."""
    weights: Weights
    """The denoiser's weights by their names in diffusers."""
    original: bool
    """Whether the file has the family's original layout."""


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model as a pipeline folder, and the single file of which the folder was made."""

    folder: Path
    file: SingleFile | None = None

    def save(self, denoiser: nn.Module, target: Path) -> None:
        """Write the model with other weights to the new folder ``target``: as a pipeline folder, and in the form it came in."""
        save_model(denoiser, self.folder, target)
        if self.file:
            write_marked_file(self.file, denoiser, target / MARKED)


@contextmanager
def registered_model(path: Path, limits: Limits | None = None) -> Iterator[RegisteredModel]:
    """Yield a registered model: a pipeline folder, an archive of one, or a single file, perhaps packed with its settings.

    What is unpacked or made lives as long as the block. Raises what :func:`read_single_file` does, and
    :class:`aiao_core.errors.UnsafeArchive`.
    """
    with opened(path, limits) as content:
        if (single := _single_file(content)) is None:
            yield RegisteredModel(content)
            return
        file = read_single_file(single, content if content.is_dir() else None)
        with tempfile.TemporaryDirectory(prefix="aiao-") as scratch:
            make_pipeline(file, Path(scratch))
            yield RegisteredModel(Path(scratch), file)


def _single_file(path: Path) -> Path | None:
    """Return the single file that was uploaded: ``path``, or the only file of weights in a folder that is not a pipeline."""
    if not path.is_dir():
        return path
    if (path / "model_index.json").is_file():
        return None
    files = [file for file in files_in(path) if is_weights(file.name)]
    return files[0] if len(files) == 1 else None


def read_single_file(path: Path, folder: Path | None = None) -> SingleFile:
    """Read a single file as a model. ``folder`` may hold its configurations, as a pipeline folder does.

    Raises :class:`WrongArchitecture` for one of no known model, :class:`AdapterWithoutBase` for an adapter, and
    :class:`InvalidCheckpoint` for another file that cannot be registered.
    """
    tensors = _read(path)
    weights_in_file = without_markers(tensors)
    described = _described(folder)
    causes: dict[str, str] = {}
    for model in [described] if described else KNOWN_MODELS:
        architecture = Architecture(class_name=model.class_name, config=model.config)
        registered = build(architecture).state_dict()
        recognized = recognize(weights_in_file, registered)
        try:
            check_layout(recognized, model.class_name)
            weights, layout = to_diffusers(weights_in_file, recognized, model.class_name, registered)
            check_fit(weights, registered)
        except WrongArchitecture as error:
            causes.setdefault(model.class_name, str(error))
            continue
        if recognized.averages:
            raise InvalidCheckpoint(f"{path.name} holds moving averages (EMA) alone; save the weights that are to be published")
        return SingleFile(path, _scheduled(model, tensors), recognized, tensors, weights, layout is not None)
    if described:
        raise WrongArchitecture(causes[described.class_name])
    family = recognize(weights_in_file, ()).family
    cause = causes.get(family.class_name if family else "", next(iter(causes.values())))
    raise WrongArchitecture(
        f"{path.name} is not one of {', '.join(model.name for model in KNOWN_MODELS)}: {cause}. Pack it together with "
        "unet/config.json or transformer/config.json and scheduler/scheduler_config.json, or convert it to a diffusers folder "
        "with save_pretrained()"
    )


def make_pipeline(file: SingleFile, into: Path) -> None:
    """Write a pipeline folder of a single file: its denoiser and noise schedule, without VAE and text encoders."""
    model = file.model
    scheduler = dict(model.scheduler or {})
    index = {
        "_class_name": model.pipeline,
        model.part: ["diffusers", model.class_name],
        "scheduler": ["diffusers", str(scheduler.get("_class_name"))],
    }
    documents = {
        into / "model_index.json": index,
        into / model.part / "config.json": {"_class_name": model.class_name} | model.config,
        into / "scheduler" / "scheduler_config.json": scheduler,
    }
    for path, document in documents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2))
    weights = {name: value.contiguous() for name, value in file.weights.items()}
    save_file(weights, into / model.part / WEIGHTS, metadata={"format": "pt"})


def write_marked_file(file: SingleFile, denoiser: nn.Module, target: Path) -> None:
    """Write the file again with the weights of ``denoiser``, in its own names and types, and with everything else it held.

    Moving averages are left out: they are not marked.
    """
    state = {name: value.cpu() for name, value in denoiser.state_dict().items()}
    rows = original_names(file.model.class_name, state).rows if file.original else {name: Rows((name,)) for name in state}
    prefix = file.recognized.prefix
    content = {}
    for name, value in file.tensors.items():
        if name.startswith(MOVING_AVERAGES):
            continue
        of = rows.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        content[name] = (value if of is None else of.join(state).to(value.dtype)).contiguous()
    save_file(content, target, metadata=_metadata(file.path))


def _read(path: Path) -> Weights:
    """Return the tensors of a file that can be registered."""
    if identify_path(path) == "gguf":
        raise InvalidCheckpoint(
            f"{path.name} is a GGUF file, whose numbers are rounded to a few bits: training cannot write a watermark into "
            "them. Register the safetensors that it was made from, and quantize the marked model"
        )
    tensors, _ = read_tensors(path)
    recognized = recognize(without_markers(tensors), ())
    if recognized.adapter:
        raise AdapterWithoutBase(
            f"{path.name} is an adapter, which changes a base model; register the model with the adapter merged into it"
        )
    if any(value.dtype in FP8 and not name.startswith(COMPANION_PREFIXES) for name, value in tensors.items()):
        raise InvalidCheckpoint(
            f"{path.name} holds fp8 weights, which are too coarse to be trained; register the model in float16 or bfloat16, "
            "and quantize the marked one"
        )
    return dequantize(tensors)[0]  # which names every other kind of quantization


def _described(folder: Path | None) -> KnownModel | None:
    """Return the model whose configurations a folder holds, if it does."""
    part = denoiser_folder(folder) if folder else None
    if folder is None or part is None:
        return None
    config = read_json(part / "config.json")
    return KnownModel(
        "the configuration beside it",
        str(config.get("_class_name")),
        {name: value for name, value in config.items() if not name.startswith("_")},
        scheduler_config(folder),
        "DiffusionPipeline",
    )


def _scheduled(model: KnownModel, tensors: Weights) -> KnownModel:
    """Return the model with the noise schedule that the marker tensors of a file ask for."""
    if edm := [name for name in tensors if name in MARKERS and name.startswith("edm_")]:
        raise InvalidCheckpoint(
            f"the tensor {edm[0]} says that this file was trained by EDM, as Playground 2.5 and CosXL were; its noise schedule "
            "is not read, and a watermark that is trained under another would ruin the model"
        )
    scheduler = dict(model.scheduler) if model.scheduler else None
    if "v_pred" in tensors or "ztsnr" in tensors:
        scheduler = (scheduler or KNOWN_MODELS[0].scheduler or {}) | V_PREDICTION
    if scheduler is None:
        raise InvalidCheckpoint(
            f"this is a {model.name}, whose files were trained for the noise or for the velocity and do not say which; pack "
            "the file together with unet/config.json and scheduler/scheduler_config.json"
        )
    return replace(model, scheduler=scheduler | (ZERO_TERMINAL_SNR if "ztsnr" in tensors else {}))


def _metadata(path: Path) -> dict[str, str]:
    """Return what a safetensors file says about itself, without what is false of other weights."""
    if identify_path(path) != "safetensors":
        return {"format": "pt"}
    with safe_open(path, "pt") as opened:
        stated = opened.metadata() or {}
    return {"format": "pt"} | {name: value for name, value in stated.items() if name not in HASHES}
