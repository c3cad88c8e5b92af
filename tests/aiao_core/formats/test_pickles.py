"""Pickles as data: nothing in one runs, whatever it asks for, and none takes much memory or time."""

import argparse
import collections
import io
import pickle
import pickletools
import struct
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from aiao_core.formats import pickles
from aiao_core.formats.mapped import MappedFile
from aiao_core.formats.pickled_objects import DescribedTensor, Global, MalformedPickle, StandIn, Storage
from aiao_core.formats.pickles import load
from aiao_core.formats.torch_files import TorchFile
from tests.support.pickles import saved


def read(content: bytes):
    return load(io.BytesIO(content)).content


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    max_leaves=20,
)


@given(plain, st.sampled_from([2, 3, 4, 5]))
def test_plain_data_is_read_as_pickle_itself_reads_it(value, protocol):
    content = pickle.dumps(value, protocol)
    if b"_codecs" not in content:  # bytes, by the older protocols
        assert read(content) == value


@given(st.binary(max_size=200))
def test_noise_is_read_or_refused(content):
    with suppress(MalformedPickle):
        read(content)


class Trap:
    """What a pickle may call on its way: each of these would leave a mark."""

    def __init__(self, how: str, mark: Path) -> None:
        self.how, self.mark = how, mark

    def __reduce__(self):
        return {
            "reduce": (Path.touch, (self.mark,)),
            "eval": (eval, (f"open({str(self.mark)!r}, 'w')",)),
            "state": (argparse.Namespace, (), {"__class__": Path.touch, "mark": self.mark}),
            "import": (__import__, ("this",)),
        }[self.how]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("how", ["reduce", "eval", "state", "import"])
def test_nothing_runs(tmp_path, how, protocol):
    sys.modules.pop("this", None)
    content = pickle.dumps({"weights": 1, "trap": [Trap(how, tmp_path / "mark")]}, protocol)
    found = read(content)
    assert found["weights"] == 1
    assert type(found["trap"][0]) is StandIn
    assert not (tmp_path / "mark").exists()
    assert "this" not in sys.modules


BY_HAND = {
    "a global": b"cthis\ns\n.",
    "an instance": b"(S'x'\nios\nsystem\n.",
    "an object": b"(cos\nsystem\nS'true'\no.",
    "a call": b"cos\nsystem\n(S'true'\ntR.",
    "a new object": b"\x80\x02cos\nsystem\n(S'true'\nt\x81.",
    "a new object with names": b"\x80\x04cos\nsystem\n)}\x92.",
    "a name from the stack": b"\x80\x04\x8c\x04this\x8c\x01s\x93.",
    "a registered class": b"\x82\x01.",
    "a buffer": b"\x97.",
    "another reference": b"Pname\n.",
}


@pytest.mark.parametrize("how", BY_HAND)
def test_no_instruction_imports_or_calls(how):
    sys.modules.pop("this", None)
    try:
        found = read(BY_HAND[how])
    except MalformedPickle as error:
        found = str(error)
    assert isinstance(found, StandIn | Global) or "which torch.save() does not write" in found
    assert "this" not in sys.modules


def test_every_instruction_of_pickle_was_thought_of():
    """A new version of Python may bring more: they are refused until somebody has."""
    known = {*pickles.CONSTANTS, *pickles.REMEMBER, *pickles.RECALL, *pickles.ACTIONS}
    refused = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "PERSID", "INST"}
    assert {opcode.name for opcode in pickletools.opcodes} == known | refused


def long_text(size: int) -> bytes:
    return b"\x8d" + struct.pack("<Q", size)


HUGE = {
    "a byte array of a terabyte": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
    "text that is not there": b"\x80\x04" + long_text(1 << 40) + b".",
    "a number that is not there": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b".",
    "a far place to remember at": b"\x80\x02]r\xff\xff\xff\xff.",
    "a tensor of a terabyte": saved({"a": torch.zeros(1).expand(1 << 38)}),
    "an endless name": b"c" + b"a" * 10_000_000,
}


@pytest.mark.parametrize("case", HUGE)
def test_what_a_pickle_claims_takes_no_memory(tmp_path, case):
    (tmp_path / "file").write_bytes(HUGE[case])
    tracemalloc.start()
    try:
        if HUGE[case].startswith(b"PK"):
            TorchFile.open(tmp_path / "file")
        else:
            read(HUGE[case])
    except MalformedPickle:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20


def repeated(made: bytes, count: int, each: bytes) -> bytes:
    """Make something, and use it ``count`` times."""
    return b"\x80\x04(" + made + b"q\x000" + each * count + b"l."


many = b"(" + b"K\x01" * 100_000
SLOW = {
    "a list given to many calls": repeated(b"](" + b"]" * 50_000 + b"e", 20_000, b"ccollections\nOrderedDict\nh\x00\x85R"),
    "a long shape of many tensors": repeated(many + b"t", 20_000, b"ctorch._utils\n_rebuild_tensor\n(NK\x00h\x00h\x00tR"),
    "many arguments of many calls": repeated(many + b"t", 20_000, b"ctorch._utils\n_rebuild_parameter\nh\x00R"),
    "many references": repeated(many + b"t", 20_000, b"N0"),
    "tuples in each other as keys": b"\x80\x02}" + b")" + b"2\x86" * 200 + b"K\x01s.",
    "lists in each other": b"]" * 300_000 + b"a" * 299_999 + b".",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", SLOW)
def test_what_a_pickle_repeats_takes_no_time(case):
    with suppress(MalformedPickle):
        read(SLOW[case])


def test_a_pickle_has_an_end(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_STEPS", 1000)
    assert read(b"]" * 900 + b".") == []
    with pytest.raises(MalformedPickle, match="more than 1000 instructions"):
        read(b"]" * 1001 + b".")
    monkeypatch.setattr(pickles, "MAX_BYTES", 1000)
    with pytest.raises(MalformedPickle, match="more than 1000 bytes"):
        read(pickle.dumps("x" * 1000))


class Settings(dict):
    """As omegaconf and others have for a trainer's settings."""


def test_objects_of_every_class_are_stand_ins():
    found = read(
        saved_alone(
            {
                "namespace": argparse.Namespace(lr=1),
                "settings": Settings(lr=2),
                "default": collections.defaultdict(list, a=3),
                "class": argparse.Namespace,
                argparse.Namespace: "a class for a key",
                (1, 2): "a tuple for a key",
                "set": {4},
            }
        )
    )
    assert (found["namespace"].name, found["namespace"].state) == ("argparse.Namespace", {"lr": 1})
    assert found["settings"].items == {"lr": 2}
    assert found["default"] == {"a": 3}
    assert found["class"].name == "argparse.Namespace"
    assert found["set"] == [4]
    assert len(found) == 5  # only texts are kept as keys


def saved_alone(value: object) -> bytes:
    return pickle.dumps(value, 2)


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool, torch.complex64,
          torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16]  # fmt: skip


NEW = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors of every type, some of which are parts of others, turned, repeated or parameters."""
    found: dict[str, torch.Tensor] = {}
    for number in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(1, 4), max_size=3))
        value = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(number)).to(draw(st.sampled_from(DTYPES)))
        if found and draw(st.booleans()):
            value = next(iter(found.values()))
        match draw(st.sampled_from(["as it is", "turned", "a part", "repeated", "a parameter"])):
            case "turned":
                value = value.T if value.dim() == 2 else value
            case "a part":
                value = value[1:] if value.dim() and len(value) > 1 else value
            case "repeated":
                value = value.expand(3, *value.shape)
            case "a parameter" if value.is_floating_point() and value.dtype not in NEW:
                value = torch.nn.Parameter(value)
        found[f"tensor {number}"] = value
    return found


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tensors(), st.booleans(), st.sampled_from([2, 4]))
def test_tensors_are_those_that_torch_itself_reads(tmp_path, value, legacy, protocol):
    assume(not legacy or not any(tensor.dtype in NEW for tensor in value.values()))  # torch writes them, and cannot read them
    file = tmp_path / "file.pt"
    torch.save(value, file, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    opened, expected = TorchFile.open(file), torch.load(file, weights_only=False)
    for name, described in opened.content.items():
        assert isinstance(described, DescribedTensor)
        found, wanted = opened.tensor(described), expected[name].detach()
        assert (found.dtype, found.shape, found.stride()) == (wanted.dtype, wanted.shape, wanted.stride())
        assert torch.equal(bits(found), bits(wanted))


def bits(value: torch.Tensor) -> torch.Tensor:
    return value.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)


def test_numbers_are_read_only_when_they_are_used(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "file.pt")
    opened = TorchFile.open(tmp_path / "file.pt")
    value = opened.tensor(opened.content["a"])
    content = (tmp_path / "file.pt").read_bytes()
    with (tmp_path / "file.pt").open("r+b") as file:
        file.seek(content.index(struct.pack("<f", 1) * 1000))
        file.write(bytes(4000))
    assert not value.any()


@pytest.mark.parametrize("name", ["torch._inductor", "torch.classes", "torch.float33", "torch.nn", "float32", "torch.qint8"])
def test_a_type_of_numbers_is_not_looked_up_in_torch(name):
    """Some of torch's names are modules that it imports when they are asked for."""
    before = set(sys.modules)
    storage = Storage("0", "torch.FloatStorage", 4)
    with pytest.raises(MalformedPickle):
        TorchFile(None, {}, MappedFile(Path(__file__))).tensor(DescribedTensor(storage, 0, (1,), (1,), name))
    assert set(sys.modules) == before
