import bz2
import gzip
import json
import lzma
import struct
import subprocess
import sys
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.identify import identify
from tests.support import uploads

GOOD = {
    "model.zip": (uploads.MODEL_ZIP, "archive"),
    "model.tar": (uploads.tar_of(uploads.MODEL_TAR), "archive"),
    "model.tar.gz": (uploads.tar_of(uploads.MODEL_TAR, "w:gz"), "archive"),
    "model.tar.bz2": (uploads.tar_of(uploads.MODEL_TAR, "w:bz2"), "archive"),
    "model.tar.xz": (uploads.tar_of(uploads.MODEL_TAR, "w:xz"), "archive"),
    "weights.safetensors": (uploads.safetensors(), "safetensors"),
    "weights.bin": (uploads.pickle(), "pickle"),
    "weights.ckpt": (uploads.pickle(legacy=True), "pickle"),
    "model.gguf": (uploads.gguf(), "gguf"),
    "images.npz": (uploads.npz(), "images"),
    "images.zip": (uploads.PNGS, "images"),
    "images of macOS.zip": (uploads.zip_of({"a.png": b"1", ".DS_Store": b"", "__MACOSX/._a.png": b""}), "images"),
    "images of Windows.zip": (uploads.zip_of({"a\\": b"", "a\\b.png": b"1", "Thumbs.db": b""}), "images"),
}


def kind(folder, content: bytes, name: str = "file") -> str:
    (folder / "upload").write_bytes(content)
    with (folder / "upload").open("rb") as file:
        return identify(file, len(content), name)


@pytest.mark.parametrize("name", GOOD)
def test_a_file_is_known_by_its_content_under_any_name(tmp_path, name):
    content, expected = GOOD[name]
    assert kind(tmp_path, content, name) == expected
    assert kind(tmp_path, content, "harmless.txt") == expected


def header(document: object, weights: bytes = b"") -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + weights


STARTS = [b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", bytes(8) + b"{", b""]
BAD = {
    "nothing": (b"", "an empty file"),
    "text": (b"this is no model\n", "a short text"),
    "long text": (b"this is no model\n" * 1000, "no .safetensors or GGUF file"),
    "zeros": (bytes(20_480), "begins with zero bytes alone"),
    "random": (bytes(range(40, 250)), "no .safetensors or GGUF file"),
    "text.safetensors": (b"this is no model\n", "a short text"),
    "long text.safetensors": (b"this is no model\n" * 1000, "no complete safetensors"),
    "short.safetensors": (b"abc\xff", "no complete safetensors"),
    "truncated.safetensors": (uploads.safetensors()[:-1], "announces 256 bytes of weights, but 255 follow"),
    "long.safetensors": (uploads.safetensors() + b"0", "announces 256 bytes of weights, but 257 follow"),
    "header.safetensors": (uploads.safetensors()[:20], "longer than the file"),
    "list.safetensors": (header([]), "no complete safetensors"),
    "offsets.safetensors": (header({"a": {"data_offsets": "ab"}}), "no complete safetensors"),
    "huge.safetensors": (header({"a": {"data_offsets": [0, 10**30]}}), "no complete safetensors"),
    "deep.safetensors": (header(b'{"a":' + b"[" * 100_000), "no complete safetensors"),
    "digits.safetensors": (header(b'{"a":' + b"1" * 10_000 + b"}"), "no complete safetensors"),
    "latin.safetensors": (header(b'{"\xff": 1}'), "no complete safetensors"),
    "many.safetensors": (header({f"{n}": {"data_offsets": [0, 0]} for n in range(10_001)}), "names 10001 tensors"),
    "start.gguf": (b"GGUF", "version 0 and 0 tensors in 4 bytes"),
    "version.gguf": (b"GGUF" + struct.pack("<IQQ", 1, 1, 0) + bytes(100), "version 1"),
    "big-endian.gguf": (b"GGUF" + struct.pack(">IQQ", 3, 1, 0) + bytes(100), "as little-endian GGUF"),
    "no tensors.gguf": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(100), "0 tensors"),
    "many tensors.gguf": (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0) + bytes(100), "tensors in 124 bytes"),
    "empty.zip": (uploads.zip_of({}), "empty"),
    "folders.zip": (uploads.zip_of({"folder/": b""}), "empty"),
    "half.zip": (uploads.MODEL_ZIP[: len(uploads.MODEL_ZIP) // 2], "broken or incomplete"),
    "half.ckpt": (uploads.pickle()[: len(uploads.pickle()) // 2], "this PyTorch checkpoint is broken or incomplete"),
    "start.zip": (b"PK\x03\x04", "broken or incomplete"),
    "start.gz": (b"\x1f\x8b", "no readable TAR"),
    "text.gz": (gzip.compress(b"this is no model"), "no readable TAR"),
    "half.gz": (uploads.tar_of(uploads.MODEL_TAR, "w:gz")[:40], "no readable TAR"),
    "text.bz2": (bz2.compress(b"this is no model"), "no readable TAR"),
    "start.bz2": (b"BZh9", "no readable TAR"),
    "text.xz": (lzma.compress(b"this is no model"), "no readable TAR"),
    "start.xz": (b"\xfd7zXZ\x00", "no readable TAR"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_or_unknown_file_is_refused_in_words(tmp_path, name):
    content, reason = BAD[name]
    with pytest.raises(InvalidCheckpoint, match=reason):
        kind(tmp_path, content, name)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_recognised_or_refused_and_nothing_else_happens(tmp_path, data):
    name = data.draw(st.sampled_from(list(GOOD)))
    content = bytearray(GOOD[name][0])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    with suppress(InvalidCheckpoint):
        kind(tmp_path, bytes(content), name)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from(STARTS), rest=st.binary())
def test_noise_is_recognised_or_refused_and_nothing_else_happens(tmp_path, start, rest):
    with suppress(InvalidCheckpoint):
        kind(tmp_path, start + rest, "noise")


def tar_header(kind: bytes, size: bytes) -> bytes:
    """A TAR header whose entry claims ``size``."""
    block = bytearray(512)
    block[:4], block[124:136], block[148:156], block[156:157], block[257:265] = b"name", size, b" " * 8, kind, b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.process
@pytest.mark.parametrize("kind_of_entry", [b"L", b"x"], ids=["long name", "pax"])
def test_a_header_that_expands_is_not_unpacked_to_look_at_it(tmp_path, kind_of_entry):
    """A name of 64 MiB in some 60 kB: recognising it must not fill the memory of the service."""
    size = 64 << 20
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(tar_header(kind_of_entry, b"%011o\0" % size) + bytes(size)))
    script = (
        "import resource, sys; from aiao_core.formats.identify import identify\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(identify(open(sys.argv[1], 'rb'), 60_000, 'bomb'), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "bomb.tar.gz"], capture_output=True, text=True, check=True
    )
    kind, kilobytes = answer.stdout.split()
    assert kind == "archive"
    assert int(kilobytes) < 16 << 10


@pytest.mark.parametrize(
    "size", [b"%011o\0" % (8**11 - 1), b"\x80" + b"\xff" * 11, b"\xff" * 12], ids=["8 GiB", "2**88", "negative"]
)
def test_a_header_that_lies_about_its_size_does_no_harm(tmp_path, size):
    for entry in (b"0", b"L", b"x"):
        assert kind(tmp_path, tar_header(entry, size) + bytes(512)) == "archive"


@pytest.mark.parametrize("claim", [2**32, 2**62, 2**63, 2**64 - 1])
@pytest.mark.parametrize("field", ["size", "offset", "place"])
def test_a_zip_that_lies_about_its_directory_is_refused(tmp_path, claim, field):
    said = {"size": 0, "offset": 0, "place": 0} | {field: claim}
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, said["size"], said["offset"])
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, said["place"], 1)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    with pytest.raises(InvalidCheckpoint):
        kind(tmp_path, b"PK\x03\x04" + bytes(100) + end64 + locator + end)


def test_a_safetensors_header_is_not_read_beyond_the_limit(tmp_path):
    """Parsed, 60 MiB of JSON take 1.8 GiB."""
    with (tmp_path / "upload").open("wb") as file:
        file.write(struct.pack("<Q", 60 << 20) + b'{"a": [')
        file.truncate(64 << 20)
    tracemalloc.start()
    with (tmp_path / "upload").open("rb") as file, pytest.raises(InvalidCheckpoint, match="the most that is read"):
        identify(file, 64 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
