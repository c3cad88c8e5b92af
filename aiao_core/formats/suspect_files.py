"""One file of a suspect: read, recognized once, and as the registered denoiser's weights if it holds them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.identify import Kind, identify_path, read_header
from aiao_core.formats.names import with_today_words
from aiao_core.formats.original_layouts import check_layout, original_names, to_diffusers
from aiao_core.formats.other_inputs import with_registered_inputs
from aiao_core.formats.pipelines import build, check_fit
from aiao_core.formats.quantized import FP8, dequantize, read_gguf
from aiao_core.formats.recognize import Recognized, recognize
from aiao_core.formats.weight_files import Weights, is_index, read_json, read_weights
from aiao_core.key import Architecture

MAX_ADAPTER_CONFIG_BYTES = 256 << 10
MAX_EXPANSION = 4
"""A quantized file may hold this many times the numbers of the denoiser, because it may bring more than the denoiser along."""


@dataclass(frozen=True)
class SuspectFile:
    """A file of weights by the names in the file, and what was recognized in it."""

    weights: Weights
    form: str
    recognized: Recognized
    config: dict[str, Any]
    """Of an adapter: its ranks and scales."""


@dataclass(frozen=True)
class RegisteredDenoiser:
    """The registered architecture, and the tensors of its denoiser by name, without numbers."""

    architecture: Architecture
    tensors: Weights

    @classmethod
    def of(cls, architecture: Architecture) -> "RegisteredDenoiser":
        return cls(architecture, build(architecture).state_dict())

    def read(self, path: Path, kind: Kind | None = None) -> SuspectFile:
        """Read a file of weights, or an index of shards, and recognize it. ``kind`` is known if the file was identified.

        Raises :class:`InvalidCheckpoint` if the file cannot be read, and what :meth:`check` raises where reading would cost
        far more memory than the file.
        """
        if kind is None and not is_index(path.name):
            kind = identify_path(path)
        if kind == "gguf":
            weights, recognized = read_gguf(path, self._recognize_and_check)
            form = "GGUF"
        else:
            weights, form = read_weights(path, kind)
            recognized = recognize(weights, self.tensors)
        return SuspectFile(weights, form, recognized, _adapter_config(path, kind) if recognized.adapter else {})

    def _recognize_and_check(self, weights: Weights) -> Recognized:
        recognized = recognize(weights, self.tensors)
        self.check(weights, recognized)
        return recognized

    def check(self, weights: Weights, recognized: Recognized) -> None:
        """Refuse weights of another kind, or far too many, before they take up to sixteen times the memory of their file."""
        if not recognized.adapter and not self._has_original_names(weights, recognized):
            check_layout(recognized, self.architecture.class_name)
        numbers = sum(value.numel() for value in weights.values() if value.is_meta or value.dtype in FP8)
        largest = MAX_EXPANSION * sum(value.numel() for value in self.tensors.values())
        if numbers > largest:
            raise WrongArchitecture(
                f"the file holds {numbers} quantized numbers, too many for the denoiser of the registered "
                f"{self.architecture.class_name}; submit the denoiser alone"
            )

    def _has_original_names(self, weights: Weights, recognized: Recognized) -> bool:
        """Return whether these are the registered class's own original names, though another family's begin like them."""
        if recognized.family is None or recognized.family.class_name == self.architecture.class_name:
            return False
        rows = original_names(self.architecture.class_name, self.tensors).rows
        part = recognized.part(weights)
        return bool(rows) and 2 * sum(name in rows for name in part) > max(len(part), len(rows))

    def weights_of(self, file: SuspectFile) -> tuple[Weights, str]:
        """Return the weights in floating point and by the denoiser's names, every one checked, and their form in words."""
        self.check(file.weights, file.recognized)
        weights, quantized = dequantize(file.weights)
        weights, layout = to_diffusers(weights, file.recognized, self.architecture.class_name, self.tensors)
        weights = with_today_words(weights, self.tensors)
        weights, other_inputs = with_registered_inputs(weights, self.tensors, self.architecture.class_name)
        check_fit(weights, self.tensors)
        return weights, ", ".join(word for word in (file.form, quantized, layout, *other_inputs) if word)


def _adapter_config(file: Path, kind: Kind | None) -> dict[str, Any]:
    """Return the ranks and scales that PEFT writes beside an adapter, and diffusers into its metadata."""
    if (beside := file.with_name("adapter_config.json")).is_file():
        return read_json(beside, MAX_ADAPTER_CONFIG_BYTES)
    if kind != "safetensors":
        return {}
    with file.open("rb") as opened:
        notes = read_header(opened).get("__metadata__")
    text = notes.get("lora_adapter_metadata", "{}") if isinstance(notes, dict) else "{}"
    try:
        config = json.loads(text) if isinstance(text, str) and len(text) <= MAX_ADAPTER_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise InvalidCheckpoint(f"{file.name}: its lora_adapter_metadata is no JSON object of a sensible size; save it again")
    return config
