"""How much memory a job needs at most, estimated without torch.

An overestimate costs a larger worker than necessary; an underestimate costs the job. All weights are float32 in every job.
`python -m benchmarks.memory` compares these estimates with measurements.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from math import isqrt
from pkgutil import iter_modules

from aiao_core.options import EmbeddingOptions

PROCESS_BYTES = 2 << 30
"""Memory of a worker without any weights: 0.54 GB for each of its two processes that import torch (memory.txt), and torch's
buffers; or CUDA's context and workspaces."""

EMBEDDING_BYTES = 20
"""Bytes per parameter, 4 each: the model, a frozen copy, the gradient and AdamW's two moments. The savings of `train`,
`optimizer` and `offload_source` are not counted: only torch can tell how large the key's layers are, and a search for lazy
layers, if the options ask for one, comes first and needs everything.
Measured for Stable Diffusion 1.5: 18.2 GB for 860 M parameters, including the process and a batch of 2 (full_size.txt)."""

AUDIT_BYTES = 24
"""Bytes per parameter: an embedding's, and one more copy, because the overwriting attack embeds in a copy of the published
model."""

VERIFICATION_BYTES = 7
"""Bytes per parameter: the suspect in float32 and the file it comes from, with source and suspect one after the other.
Measured: 6.0 GB for 860 M parameters, 13.3 GB for 2,028 M, 16.9 GB for 2,567 M, including the process (full_size.txt)."""

MODEL_BYTES = 4
"""Bytes per parameter of a model that is loaded and does nothing yet."""

TEXT_BYTES = 4
"""Bytes per parameter of the text encoders, which are loaded beside the model before the training."""

OTHER_ACTIVATION_BYTES = 60
"""Activation bytes (:func:`activation_bytes`) of a family that states none. The most that was counted is 53, for Z-Image, where
the network makes tokens of 2x2 positions; where each position is a token it is four times as much, and has to be stated."""

CHECKPOINTED = 4
"""Least factor by which gradient checkpointing reduces activations. Counted: 6 to 25 in models of full size."""

EMBEDDING_SAMPLES = 1.5
"""Samples for each input of a batch: half of the inputs come a second time, with the owner's trigger."""

AUDIT_SAMPLES = 32
"""The batch of the attacks that train."""


@dataclass(frozen=True)
class DenoiserSize:
    """The size of a model, as far as its files tell."""

    class_name: str
    parameters: int | None
    """Parameters of the denoiser; 0 if the archive holds none, None if unknown, as in a compressed TAR archive."""
    positions: int
    """Positions of x_t in training: of an image its height times width, at the size that the model is made for."""
    text_parameters: int
    """Parameters of the text encoders."""


UNKNOWN = DenoiserSize("", None, 0, 0)


def of_embedding(model: DenoiserSize, options: EmbeddingOptions) -> int | None:
    """Return the bytes that an embedding needs; None if the model's size is unknown."""
    if model.parameters is None:
        return None
    samples = int(EMBEDDING_SAMPLES * options.batch_size)
    activations = _activations(model, model.parameters, samples) // (CHECKPOINTED if options.gradient_checkpointing else 1)
    return PROCESS_BYTES + max(EMBEDDING_BYTES * model.parameters + activations, _with_text(model, model.parameters))


def of_audit(model: DenoiserSize) -> int | None:
    """Return the bytes that an audit needs: its attacks train in single precision, whatever the embedding did."""
    if model.parameters is None:
        return None
    trained = AUDIT_BYTES * model.parameters + _activations(model, model.parameters, AUDIT_SAMPLES)
    return PROCESS_BYTES + max(trained, _with_text(model, model.parameters))


def of_verification(model: DenoiserSize) -> int | None:
    """Return the bytes that a verification needs: its inputs are small, and no text encoder is loaded."""
    return None if model.parameters is None else PROCESS_BYTES + VERIFICATION_BYTES * model.parameters


def activation_bytes(class_name: str) -> int:
    """Return the memory of a training step for one sample, beside the weights, of a family of denoisers.

    In bytes per position and per square root of the number of parameters: a network twice as wide has four times the weights
    and twice the activations. Counted for the backward pass: 15.6 for Stable Diffusion 1.5, 16.6 for XL, 17.8 for 3, 37.4 for
    FLUX, 34 for Qwen-Image, 48 for Wan 14B, 203 for FLUX.2, whose tokens are single positions. Measured steps of small models
    take 1.4 to 1.8 times the counted bytes (memory.txt).
    """
    return _stated().get(class_name, {}).get("activation_bytes", OTHER_ACTIVATION_BYTES)


def positions(class_name: str) -> int | None:
    """Return the positions of x_t that a family of denoisers states; None if the model's ``sample_size`` tells."""
    return _stated().get(class_name, {}).get("positions")


def _activations(model: DenoiserSize, parameters: int, samples: int) -> int:
    return activation_bytes(model.class_name) * model.positions * isqrt(parameters) * samples


def _with_text(model: DenoiserSize, parameters: int) -> int:
    return MODEL_BYTES * parameters + TEXT_BYTES * model.text_parameters


@cache
def _stated() -> dict[str, dict[str, int]]:
    """What each family's class and its bases state as plain numbers, by the class name of its denoiser.

    Read from the source text of the families' modules, as setuptools reads a version: to import them takes torch, which the API
    process does not have.
    """
    package = "aiao_core.denoisers"
    built_in = [f"{package}.{module.name}" for module in iter_modules(_find(package).submodule_search_locations)]
    installed = [entry_point.module for entry_point in entry_points(group="aiao.denoisers")]
    classes = [each for module in (*installed, *built_in) for each in _classes_in(module)]
    bodies_of = {each.name: each.body for each in classes}  # ours before those that others name alike
    found = {}
    for each in reversed(classes):  # others' statements before ours, as their families are registered
        bodies = [bodies_of[base] for base in map(_last_name, each.bases) if base in bodies_of] + [each.body]
        family = {ast.unparse(line.targets[0]): line.value for body in bodies for line in body if isinstance(line, ast.Assign)}
        if denoiser := family.get("denoiser"):
            numbers = {name: value.value for name, value in family.items() if isinstance(value, ast.Constant)}
            found[_last_name(denoiser)] = {name: value for name, value in numbers.items() if type(value) is int}
    return found


def _classes_in(module: str) -> Iterator[ast.ClassDef]:
    loader = _find(module).loader
    source = loader.get_source(module) if isinstance(loader, InspectLoader) else None
    return (node for node in ast.parse(source or "").body if isinstance(node, ast.ClassDef))


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _find(module: str) -> ModuleSpec:
    """Find a module without importing the packages it lies in, which ``find_spec`` alone would."""
    top, *inner = module.split(".")
    spec = find_spec(top)
    for name in inner:
        spec = spec and PathFinder.find_spec(f"{spec.name}.{name}", spec.submodule_search_locations)
    if spec is None:
        raise ModuleNotFoundError(f"no module {module}, which an entry point of the group aiao.denoisers names", name=module)
    return spec
