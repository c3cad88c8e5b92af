"""Read a pickle as data: nothing that it names is imported, called or built.

A pickle is a program for a small machine. The machine here makes dictionaries, lists, text and numbers, and describes the
tensors that ``torch.save`` writes. For every other class or call there is an inert :class:`StandIn`, so a trainer's own classes
do not stand in the way of its weights. Torch-free; ``pickletools``, which takes the instructions apart, executes none.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pickletools import genops
from typing import IO, Any

from aiao_core.formats.pickled_objects import MAX_ARGUMENTS, MAX_NUMBER, Global, MalformedPickle, StandIn, Storage, called

MAX_BYTES = 64 << 20
"""Most bytes of a pickle without its tensors' numbers: a hundred times what the largest model has."""

MAX_STEPS = 2_000_000
"""Most instructions of a pickle: a model of 10,000 tensors and its optimizer have half as many. Each takes about 100 bytes."""

MAX_LINE_BYTES = 1024
"""Most bytes of the name of a class."""


@dataclass(frozen=True)
class Unpickled:
    """The object of a pickle, and every storage that it names, by key."""

    content: Any
    storages: dict[str, Storage]


def load(file: IO[bytes]) -> Unpickled:
    """Read one pickle, and nothing of what follows in the file. Raises :class:`MalformedPickle`.

    Of a dictionary only what has a text for its key is kept: the names of weights are texts, and a stranger's objects are never
    hashed or compared.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in genops(_Bounded(file)):  # type: ignore[arg-type]
            machine.count(1)
            machine.obey(opcode.name, argument)
        return Unpickled(machine.stack.pop(), machine.storages)
    except MalformedPickle:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise MalformedPickle("its instructions are cut off or do not fit together") from error


class _Bounded:
    """A file that is read in small pieces. It tells no position: ``genops`` would ask for it at each byte."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, MAX_BYTES

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise MalformedPickle(f"it is cut off, or has more than {MAX_BYTES} bytes besides its tensors")
        self._left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(MAX_LINE_BYTES)
        self._left -= len(line)
        return line


class _Machine:
    """The machine's stack, and what it remembers by number."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._globals: dict[str, Global] = {}
        self._steps = 0

    def count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise MalformedPickle(f"it has more than {MAX_STEPS} instructions")

    def obey(self, instruction: str, argument: Any) -> None:
        if instruction in CONSTANTS:
            self.stack.append(argument)
        elif instruction in REMEMBER:
            self._memo[argument] = self.stack[-1]
        elif instruction in RECALL:
            self.stack.append(self._memo[argument])
        elif act := ACTIONS.get(instruction):
            act(self, argument)
        else:
            raise MalformedPickle(f"it has the instruction {instruction}, which torch.save() does not write")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def mark(self) -> None:
        self._outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._outer.pop()
        return items

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], StandIn):
            raise MalformedPickle("it adds to something that is not a list")

    def fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        into = target.items if isinstance(target, StandIn) else target
        if not isinstance(into, dict):
            raise MalformedPickle("it sets items of something that is not a dictionary")
        into.update((name, value) for name, value in zip(items[::2], items[1::2], strict=True) if type(name) is str)

    def set_item(self) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        self.fill([name, value])

    def dictionary(self) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.fill(items)

    def find(self, name: str) -> Global:
        for old, new in PYTHON_2:
            name = new + name.removeprefix(old) if name.startswith(old) else name
        return self._globals.setdefault(name, Global(name))

    def find_by_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str) and len(module) + len(name) < MAX_LINE_BYTES):
            raise MalformedPickle("it names a class by something that is not a short text")
        self.stack.append(self.find(f"{module}.{name}"))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(
            called(function.name if isinstance(function, Global | StandIn) else "an object", arguments, self.count)
        )

    def call_with_names(self) -> None:
        self.stack.pop()
        self.call()

    def call_since_mark(self) -> None:
        function, *arguments = self.since_mark()
        self.stack += [function, tuple(arguments)]
        self.call()

    def give_state(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].state = state

    def refer(self) -> None:
        """Take the name under which the numbers of a tensor lie elsewhere in the file."""
        reference = self.stack.pop()
        match reference if isinstance(reference, tuple) and len(reference) <= MAX_ARGUMENTS else None:
            case ("module", Global() as named, *_):  # a class with its source text, as old versions wrote it
                self.stack.append(named)
            case ("storage", Global() as kind, str() | int() as key, _, int() as numbers, *view) if 0 <= numbers <= MAX_NUMBER:
                self.stack.append(self._storage(str(key), kind.name, numbers, view))
            case _:
                raise MalformedPickle("it refers to something that is not the numbers of a tensor")

    def _storage(self, key: str, kind: str, numbers: int, view: list[Any]) -> Storage:
        whole = self.storages.setdefault(key, Storage(key, kind, numbers))
        if (whole.kind, whole.numbers) != (kind, numbers):
            raise MalformedPickle("it describes the same numbers in two ways")
        match view:
            case [] | [None]:
                return whole
            case [(_, int() as first, int() as count)] if first >= 0 and 0 <= count <= numbers - first:
                return Storage(key, kind, count, first)
        raise MalformedPickle("it describes a part of a storage that does not lie in it")


PYTHON_2 = (("__builtin__.", "builtins."), ("copy_reg.", "copyreg."))
"""Modules by the names that they had in Python 2, for which torch.save() writes."""

CONSTANTS = frozenset(
    (
        "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "FLOAT", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
        "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
        "BYTEARRAY8",
    )
)  # fmt: skip
REMEMBER = frozenset(("BINPUT", "LONG_BINPUT", "PUT"))
RECALL = frozenset(("BINGET", "LONG_BINGET", "GET"))

ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.push(machine.since_mark()),
    "DICT": lambda machine, _: machine.dictionary(),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.fill(machine.since_mark()),
    "GLOBAL": lambda machine, name: machine.push(machine.find(name.replace(" ", "."))),
    "STACK_GLOBAL": lambda machine, _: machine.find_by_stack(),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "NEWOBJ_EX": lambda machine, _: machine.call_with_names(),
    "OBJ": lambda machine, _: machine.call_since_mark(),
    "BUILD": lambda machine, _: machine.give_state(),
    "BINPERSID": lambda machine, _: machine.refer(),
    "MARK": lambda machine, _: machine.mark(),
    "MEMOIZE": lambda machine, _: machine.memoize(),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
}
"""What the machine does at each other instruction. With none of them it imports or calls anything."""
