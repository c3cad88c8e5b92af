"""Find a model's weights among everything that a trainer keeps in one pickle.

Trainers write the weights beside their optimizer, settings and moving averages. The rule: the model itself comes before its
averages, a name that says "denoiser" before any other, and the outer dictionary before one inside it. Two that may both be
meant are refused.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, printable
from aiao_core.formats.names import MAX_NAME_CHARACTERS, check_names, is_average
from aiao_core.formats.pickled_objects import DescribedTensor, MalformedPickle, StandIn
from aiao_core.formats.torch_files import TorchFile, size_of

DENOISERS = (
    "state_dict", "model_state_dict", "model", "module", "unet", "transformer", "denoiser", "net", "network", "dit",
)  # fmt: skip
"""Names under which trainers keep the weights of what they train."""

MAX_NESTING = 3
"""How many dictionaries inside each other are looked into."""

MAX_NAMED = 5
"""Most dictionaries or classes that a message names."""

MAX_PARTS = 200_000
"""Most layers, and tensors of these, of models that were pickled whole with their classes: ten times what the largest has."""

FEW = 16
"""One dictionary has far fewer tensors than another if it has this many times fewer: it is not a second model."""

SHARED = 4
"""How many times as many bytes as its file has a pickle's tensors may be: some are tied to others."""

_Kind = TypeVar("_Kind", dict[str, Any], list[Any])

STRANGE = re.compile(r"torch\.(?:_utils\._rebuild|_tensor\.|nested|distributed)|torchao\.")
"""Objects that are tensors, but not plain ones."""


@dataclass(frozen=True)
class _Found:
    """A dictionary of weights, where it is, and what else may be meant."""

    weights: dict[str, Any]
    path: str
    tensors: int
    averages: str = ""
    """Where moving averages lie beside it."""
    rivals: tuple[str, ...] = ()


def read_pickle(file: Path) -> tuple[dict[str, Tensor], str]:
    """Read the weights in a pickle, and say in words what was left out. Raises :class:`InvalidCheckpoint`."""
    try:
        opened = TorchFile.open(file)
        found = _Search().weights_in(opened.content)
        if found is None:
            instead = _instead(opened.content)
            raise InvalidCheckpoint(f"{file.name} holds no weights{instead}; save the denoiser's state_dict()")
        if found.rivals:
            raise InvalidCheckpoint(
                f"{file.name} holds several models ({', '.join(found.rivals[:MAX_NAMED])}); save the weights of one alone"
            )
        described = _plain(found.weights, file)
        return _make(described, opened), f", its moving averages ({found.averages}) not used" if found.averages else ""
    except MalformedPickle as error:
        raise InvalidCheckpoint(
            f"{file.name} is not a complete pickle of plain weights: {error}; save the weights as safetensors"
        ) from error


class _Search:
    """Looks for the weights. It does not look twice at an object, however often a pickle refers to it."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], _Found | None] = {}
        self._parts = 0

    def weights_in(self, value: Any, path: str = "", depth: int = MAX_NESTING) -> _Found | None:
        """Return the dictionary of weights in ``value``, or None if it has none."""
        if (known := (id(value), depth)) not in self._seen:
            self._seen[known] = None  # for one that holds itself
            self._seen[known] = self._find(value, path, depth)
        return self._seen[known]

    def _find(self, value: Any, path: str, depth: int) -> _Found | None:
        if (content := self._as_dictionary(value)) is None:
            return None
        own = sum(isinstance(item, DescribedTensor) for item in content.values())
        inside = {}
        if depth:
            for name, item in content.items():
                if isinstance(item, dict | StandIn) and (
                    found := self.weights_in(item, f"{path}{printable(name[:40])}.", depth - 1)
                ):
                    inside[name] = found
        averages = {name: found for name, found in inside.items() if is_average(name)}
        best = _chosen({name: found for name, found in inside.items() if name not in averages})
        if own and own >= (best.tensors if best else 0):
            best = _Found(content, path, own)
        if best and not averages:
            return best
        if best and best.tensors * FEW >= max(found.tensors for found in averages.values()):
            return replace(best, averages=", ".join([found.path[:-1] for found in averages.values()][:MAX_NAMED]))
        return _chosen(averages)

    def _as_dictionary(self, value: Any) -> dict[str, Any] | None:
        """Return the items of a dictionary or of an object derived from one, or the weights of a module pickled whole."""
        if isinstance(value, StandIn):
            state = value.state
            if isinstance(state, dict) and isinstance(state.get("_modules"), dict):
                return self._weights_of(value)
            return value.items or (state if isinstance(state, dict) else None)
        return value if isinstance(value, dict) else None

    def _weights_of(self, module: StandIn) -> dict[str, Any]:
        """Return what the module's ``state_dict()`` would be, from the attributes in which torch keeps it."""
        weights: dict[str, Any] = {}
        pending = [("", module)]
        while pending:
            prefix, part = pending.pop()
            passing = {name for name in _attribute(part, "_non_persistent_buffers_set", list) if type(name) is str}
            tensors = [_attribute(part, group, dict) for group in ("_parameters", "_buffers")]
            inner = _attribute(part, "_modules", dict)
            self._parts += 1 + len(passing) + len(inner) + sum(map(len, tensors))
            if self._parts > MAX_PARTS or len(prefix) > MAX_NAME_CHARACTERS:
                raise MalformedPickle(
                    f"it has more than {MAX_PARTS} layers and tensors, or layers in each other without an end"
                )
            for name, value in [item for group in tensors for item in group.items()]:
                if isinstance(value, DescribedTensor | StandIn) and name not in passing:
                    weights[prefix + name] = value
            pending += [(f"{prefix}{name}.", layer) for name, layer in inner.items() if isinstance(layer, StandIn)]
        return weights


def _chosen(inside: dict[str, _Found]) -> _Found | None:
    """Return the one that may be the model, with its rivals if there are some."""
    most = max((found.tensors for found in inside.values()), default=0)
    large = {name: found for name, found in inside.items() if found.tensors * FEW >= most}
    named = {name: found for name, found in large.items() if name in DENOISERS} or large
    different = list({id(found.weights): found for found in named.values()}.values())
    if len(different) < 2:
        return different[0] if different else None
    return replace(different[0], rivals=tuple(found.path[:-1] for found in different))


def _attribute(part: StandIn, name: str, kind: type[_Kind]) -> _Kind:
    """Return what an object would hold under this name; an empty one of ``kind`` for anything else."""
    found = part.state.get(name) if isinstance(part.state, dict) else None
    return found if isinstance(found, kind) else kind()


def _instead(content: Any) -> str:
    """Return in words what a pickle holds in the place of weights."""
    if isinstance(content, StandIn):
        return f", but an object of {content.name[:MAX_NAME_CHARACTERS]}, which is never built"
    values = content.values() if isinstance(content, dict) else ()
    named = sorted({value.name[:MAX_NAME_CHARACTERS] for value in values if isinstance(value, StandIn)})
    return f", but objects of {', '.join(named[:MAX_NAMED])}, which are never built" if named else ""


def _plain(weights: dict[str, Any], file: Path) -> dict[str, DescribedTensor]:
    """Return the tensors. Raises :class:`InvalidCheckpoint` for other objects in their place, and for far too large ones."""
    check_names([name for name, value in weights.items() if isinstance(value, DescribedTensor | StandIn)], file.name)
    for name, value in weights.items():
        if isinstance(value, StandIn) and (STRANGE.match(value.name) or name.endswith((".weight", ".bias"))):
            raise InvalidCheckpoint(
                f"{file.name}: {name} is not a plain tensor ({value.name[:100]}); save the weights as safetensors"
            )
    described = {name: value for name, value in weights.items() if isinstance(value, DescribedTensor)}
    size, held = sum(map(size_of, described.values())), file.stat().st_size
    if size > SHARED * held:
        raise InvalidCheckpoint(
            f"{file.name} has {held} bytes and describes {size} bytes of weights, each of them many times; save the "
            "weights as safetensors"
        )
    return described


def _make(described: dict[str, DescribedTensor], opened: TorchFile) -> dict[str, Tensor]:
    """Make the tensors. One that shares its numbers with others gets its own, because a part of a model may be cut out."""
    weights: dict[str, Tensor] = {}
    used: dict[int, int] = {}
    for name, value in described.items():
        tensor = opened.tensor(value)
        storage = tensor.untyped_storage()
        used[storage.data_ptr()] = used.get(storage.data_ptr(), 0) + tensor.nbytes
        weights[name] = tensor.clone() if used[storage.data_ptr()] > storage.nbytes() else tensor
    return weights
