"""What a pickle describes, as data: tensors, and stand-ins for the objects of every class. Torch-free."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_ARGUMENTS = 64
"""Most arguments of a call, and dimensions of a tensor: each call looks at all of them again."""

MAX_NUMBER = 1 << 62
"""Most numbers of a storage, and of one dimension of a tensor: torch counts them in 64 bits."""


REBUILD = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
"""Calls that describe a tensor by its storage, offset, shape and strides."""

PLAIN_TENSORS = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
"""Kinds of tensors that are nothing but their numbers."""


class MalformedPickle(ValueError):
    """A pickle that cannot be read."""


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """The name of a class, function or type. It was not looked up."""

    name: str


@dataclass(slots=True, eq=False)
class StandIn:
    """An object that was not built: the name of its class, or of the call that would have made it, and what it would hold."""

    name: str
    state: Any = None
    items: dict[str, Any] = field(default_factory=dict)
    """If it is a kind of dictionary."""


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """The numbers of tensors, which lie elsewhere in the file under ``key``."""

    key: str
    kind: str
    """The type, such as ``torch.HalfStorage``."""
    numbers: int
    first: int = 0
    """The number of the whole storage at which this part begins."""


@dataclass(frozen=True, slots=True, eq=False)
class DescribedTensor:
    """A tensor: which numbers of which storage it has. Nothing says that they are there."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str | None = None
    """The type, such as ``torch.float8_e4m3fn``; None for that of the storage."""


def called(name: str, arguments: Any, count: Callable[[int], None]) -> Any:
    """Return what a call stands for: one of the few that are known as data, or a stand-in.

    ``count`` is told how many items are copied: a pickle may give one list to many calls.
    """
    if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
        return StandIn(name)
    match name, arguments:
        case "collections.OrderedDict", (list() as pairs,):  # as Python 2 wrote it
            count(len(pairs))
            return {pair[0]: pair[1] for pair in pairs if isinstance(pair, list | tuple) and type(pair[0]) is str}
        case "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict", _:
            return {}
        case "builtins.bytes", ():  # as the older protocols write empty ones
            return b""
        case "builtins.set" | "builtins.frozenset", (list() as items,):
            return items
        case "copyreg._reconstructor", (Global() as made, *_):
            return StandIn(made.name)
        case (("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" as wrapper), (data, *_)):
            return data if isinstance(data, DescribedTensor) else StandIn(wrapper)
        case "torch._tensor._rebuild_from_type_v2", (Global() as rebuild, Global() as kind, tuple() as inner, *_):
            plain = kind.name in PLAIN_TENSORS and rebuild.name in REBUILD
            return called(rebuild.name, inner, count) if plain else StandIn(kind.name)
    return (name in REBUILD and _described(name, *arguments)) or StandIn(name)


def _described(
    name: str,
    storage: Any = None,
    offset: Any = None,
    shape: Any = None,
    strides: Any = None,
    requires_grad: Any = None,
    hooks: Any = None,
    *rest: Any,
) -> DescribedTensor | None:
    """Return the tensor that the arguments of a call describe; None for one that is not plain, such as a conjugated one."""
    dtype, metadata = (rest[0] if rest else None, rest[1:]) if name.endswith("_v3") else (None, rest)
    if (
        isinstance(storage, Storage)
        and (dtype is None or isinstance(dtype, Global))
        and isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) == len(strides) <= MAX_ARGUMENTS
        and all(type(number) is int and 0 <= number <= MAX_NUMBER for number in (offset, *shape, *strides))
        and not any(metadata)
    ):
        return DescribedTensor(storage, offset, shape, strides, dtype.name if dtype else None)
    return None
