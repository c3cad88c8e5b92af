import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiao_core.errors import UnsafeArchive
from aiao_core.formats import archives
from aiao_core.formats.archives import MAX_DIRECTORY_BYTES, Limits, is_archive, opened, pack, unpack


def make_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/etc/out.txt", "..\\out.txt", "C:\\out.txt", "C:out.txt", "a/../b"]
)
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_path_outside_is_refused_and_nothing_stays(tmp_path, name, form):
    if form == "zip":
        archive = make_zip(tmp_path / "evil.zip", {"fine.txt": b"1", name: b"2"})
    else:
        archive = make_tar(tmp_path / "evil.tar", [(tarfile.TarInfo("fine.txt"), b"1"), (tarfile.TarInfo(name), b"2")])
    into = tmp_path / "deep" / "er" / "content"
    with pytest.raises(UnsafeArchive, match="outside of its folder"):
        unpack(archive, into)
    assert not into.exists()
    assert not list(tmp_path.rglob("out.txt"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_is_refused(tmp_path, kind):
    entry = tarfile.TarInfo("link")
    entry.type, entry.linkname = kind, "/etc/passwd"
    with pytest.raises(UnsafeArchive, match="link or device"):
        unpack(make_tar(tmp_path / "evil.tar", [(entry, b"")]), tmp_path / "content")


def test_a_link_in_a_zip_is_refused(tmp_path):
    entry = zipfile.ZipInfo("link")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(UnsafeArchive, match="link or device"):
        unpack(tmp_path / "evil.zip", tmp_path / "content")


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_a_bomb_is_stopped_by_what_comes_out(tmp_path, form):
    zeros = bytes(64 << 20)
    if form == "zip":
        archive = make_zip(tmp_path / "bomb.zip", {"zeros": zeros}, zipfile.ZIP_DEFLATED)
    else:
        archive = make_tar(tmp_path / "bomb.tar.gz", [(tarfile.TarInfo("zeros"), zeros)], "w:gz")
    with pytest.raises(UnsafeArchive, match="expands beyond"):
        unpack(archive, tmp_path / "content")
    assert not (tmp_path / "content").exists()


def test_too_many_files_are_refused(tmp_path):
    archive = make_zip(tmp_path / "many.zip", {f"{number}": b"" for number in range(11)})
    with pytest.raises(UnsafeArchive, match="more than 10 files and folders"):
        unpack(archive, tmp_path / "content", Limits(files=10))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_archive_unpacks_whole_or_not_at_all(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    content = os.urandom(2000)
    archive = make_zip(folder / "a.zip", {"model/a": content, "model/b": b"b"}, zipfile.ZIP_DEFLATED)
    raw = bytearray(archive.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    archive.write_bytes(raw)
    into = folder / "content"
    try:
        unpack(archive, into)
    except UnsafeArchive:
        assert not into.exists()


def test_pack_and_open_again(tmp_path):
    source = tmp_path / "model"
    (source / "unet").mkdir(parents=True)
    (source / "model_index.json").write_text("{}")
    (source / "unet" / "weights").write_bytes(os.urandom(3 << 20))
    for name in ("one.zip", "two.zip"):
        pack(source, tmp_path / name)
        os.utime(source / "model_index.json", (0, 0))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with opened(tmp_path / "one.zip") as folder:
        assert (folder / "unet" / "weights").read_bytes() == (source / "unet" / "weights").read_bytes()
    assert not folder.exists()


def test_a_single_folder_is_the_root(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [(tarfile.TarInfo("model/config.json"), b"{}")])
    assert (unpack(archive, tmp_path / "content") / "config.json").read_text() == "{}"


def test_a_pytorch_checkpoint_is_no_archive(tmp_path):
    assert not is_archive(make_zip(tmp_path / "weights.pt", {"archive/data.pkl": b"", "archive/data/0": b""}))
    assert is_archive(make_zip(tmp_path / "model.zip", {"unet/config.json": b"{}"}))


@pytest.mark.long
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_large_file_comes_out_of_every_kind_of_tar(tmp_path, mode):
    weights = os.urandom(3 << 20)  # longer than what is read at once
    archive = make_tar(tmp_path / "a.tar", [(tarfile.TarInfo("model/a"), weights), (tarfile.TarInfo("model/b"), b"2")], mode)
    folder = unpack(archive, tmp_path / "content")
    assert ((folder / "a").read_bytes(), (folder / "b").read_bytes()) == (weights, b"2")


def lying_tar(size: int, content: bytes) -> bytes:
    """A TAR whose first header is a long name of ``size`` bytes."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, size
    return entry.tobuf(tarfile.GNU_FORMAT) + content


@pytest.mark.long
@pytest.mark.parametrize("case", ["a name of 2**70 bytes", "a name that is a bomb", "two bytes of gzip", "cut gzip"])
def test_a_lying_tar_is_refused_before_it_fills_the_memory(tmp_path, case):
    content = {
        "a name of 2**70 bytes": lambda: lying_tar(1 << 70, bytes(1024)),
        "a name that is a bomb": lambda: gzip.compress(lying_tar(256 << 20, bytes(256 << 20))),
        "two bytes of gzip": lambda: b"\x1f\x8b",
        "cut gzip": lambda: gzip.compress(lying_tar(100, bytes(1024)))[:60],
    }[case]()
    (tmp_path / "evil.tar").write_bytes(content)
    tracemalloc.start()
    is_archive(tmp_path / "evil.tar")
    with pytest.raises(UnsafeArchive):
        unpack(tmp_path / "evil.tar", tmp_path / "content")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert not (tmp_path / "content").exists()


def test_a_damaged_zip_says_so_when_it_is_opened(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"a": b"1" * 100, "b": b"2"})
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 3] = 9  # the signature of the directory's first entry
    archive.write_bytes(raw)
    with pytest.raises(UnsafeArchive, match="pack it again"), opened(archive):
        pass


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_folders_count_as_files_do(tmp_path, form):
    if form == "zip":
        archive = make_zip(tmp_path / "folders.zip", {f"folder {number}/": b"" for number in range(20)})
    else:
        entries = [tarfile.TarInfo(f"folder {number}") for number in range(20)]
        for entry in entries:
            entry.type = tarfile.DIRTYPE
        archive = make_tar(tmp_path / "folders.tar", [(entry, b"") for entry in entries])
    with pytest.raises(UnsafeArchive, match="more than 10 files and folders"):
        unpack(archive, tmp_path / "content", Limits(files=10))


def test_folders_in_each_other_are_refused_beyond_a_depth(tmp_path):
    archive = make_zip(tmp_path / "deep.zip", {"a/" * 100 + "file": b""})
    with pytest.raises(UnsafeArchive, match="more than 32 deep"):
        unpack(archive, tmp_path / "content")
    assert not (tmp_path / "content").exists()


def test_a_long_extended_header_is_refused_before_it_is_looked_at(tmp_path):
    """CVE-2024-6232: digits without an end take Python's regular expression time by their square."""
    entry = tarfile.TarInfo("file")
    entry.pax_headers = {"comment": "1" * 60_000}
    archive = make_tar(tmp_path / "slow.tar", [(entry, b"")])
    with pytest.raises(UnsafeArchive, match="an extended header of 60"):
        unpack(archive, tmp_path / "content")


def with_directory(path: Path, size: int, entries: int, *, zip64: bool) -> Path:
    """A sparse ZIP file that states a directory of this size."""
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, entries & 0xFFFF, entries & 0xFFFF, size & 0xFFFFFFFF, 0, 0)
    if zip64:
        end64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, size, 0)
        end = end64 + struct.pack("<4sIQI", b"PK\x06\x07", 0, size, 1) + end
    with path.open("wb") as file:
        file.write(b"PK\x01\x02")
        file.truncate(size)
        file.seek(size)
        file.write(end)
    return path


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("read", [lambda path: unpack(path, path.parent / "content"), lambda path: is_archive(path)])
def test_a_large_directory_of_a_zip_is_refused_before_it_is_read(tmp_path, zip64, read):
    path = with_directory(tmp_path / "evil.zip", 1 << 30, 20_000_000, zip64=zip64)
    tracemalloc.start()
    with suppress(UnsafeArchive):
        assert read(path) is True  # unpacking it says what is wrong
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
    with pytest.raises(UnsafeArchive, match=f"directory of more than {MAX_DIRECTORY_BYTES} bytes"):
        unpack(path, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_zip_of_too_many_entries_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ENTRIES", 2)
    path = make_zip(tmp_path / "evil.zip", dict.fromkeys("abc", b""))
    with pytest.raises(UnsafeArchive, match="more than 2 files and folders"):
        unpack(path, tmp_path / "content")
