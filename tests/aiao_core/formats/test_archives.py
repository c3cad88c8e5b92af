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

from aiao_core.errors import InvalidCheckpoint, UnsafeArchive
from aiao_core.formats import archive_members
from aiao_core.formats.archive_members import MAX_DIRECTORY_BYTES
from aiao_core.formats.archives import Limits, is_archive, opened, pack, unpack


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


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_is_refused(tmp_path, kind):
    entry = tarfile.TarInfo("device")
    entry.type = kind
    with pytest.raises(UnsafeArchive, match="'device', a device"):
        unpack(make_tar(tmp_path / "evil.tar", [(entry, b"")]), tmp_path / "content")
    entry = zipfile.ZipInfo("device")
    entry.external_attr = 0o020777 << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(entry, b"")
    with pytest.raises(UnsafeArchive, match="'device', a device"):
        unpack(tmp_path / "evil.zip", tmp_path / "content")


def linking(path: Path, links: dict[str, str], form: str, files: dict[str, bytes] | None = None) -> Path:
    """An archive in which links stay links: as of `zip -y`, or of `tar` with symbolic or hard links."""
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, target in links.items():
                entry = zipfile.ZipInfo(name)
                entry.external_attr = 0o120777 << 16
                archive.writestr(entry, target)
            for name, content in (files or {}).items():
                archive.writestr(name, content)
        return path
    entries = []
    for name, target in links.items():
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = {"tar": tarfile.SYMTYPE, "tar of hard links": tarfile.LNKTYPE}[form], target
        entries.append((entry, b""))
    return make_tar(path, entries + [(tarfile.TarInfo(name), content) for name, content in (files or {}).items()])


@pytest.mark.parametrize("form", ["zip", "tar", "tar of hard links"])
@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "../../../etc/passwd", "missing", ".", "link", "a/b:c", ""])
def test_a_link_that_leads_to_no_file_of_the_archive_is_refused(tmp_path, target, form):
    (tmp_path / "outside").write_text("a secret")
    archive = linking(tmp_path / "evil", {"link": target}, form, {"file": b""})
    with pytest.raises(UnsafeArchive, match="tar -h, or zip without -y"):
        unpack(archive, tmp_path / "content")
    assert not (tmp_path / "content").exists()


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_link_becomes_the_file_that_it_leads_to(tmp_path, form):
    links = {"model/a/link": "../blobs/1", "model/b/link": "../a/link"}
    folder = unpack(linking(tmp_path / "model", links, form, {"model/blobs/1": b"content"}), tmp_path / "content")
    assert [(folder / name / "link").read_bytes() for name in "ab"] == [b"content"] * 2
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_links_that_lead_to_each_other_have_an_end(tmp_path):
    chain = {f"{number}": f"{number + 1}" for number in range(2000)}
    with pytest.raises(UnsafeArchive, match="a link to"):
        unpack(linking(tmp_path / "chain", chain, "tar", {"2000": b""}), tmp_path / "content")


def test_what_links_bring_in_counts_as_files_do(tmp_path):
    """One large file, and a thousand links to it, would fill the disk."""
    links = {f"{number}": "large" for number in range(1000)}
    archive = linking(tmp_path / "links", links, "tar", {"large": bytes(1 << 20)})
    with pytest.raises(UnsafeArchive, match="expands beyond"):
        unpack(archive, tmp_path / "content", Limits(total_bytes=100 << 20))
    assert not (tmp_path / "content").exists()


NOTES = ["__MACOSX/model/._a", "__MACOSX/._model", "model/._a", "model/.DS_Store", "model/Thumbs.db", "model/desktop.ini"]


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_notes_of_an_operating_system_stay_out(tmp_path, form):
    files = {"model/a": b"1"} | dict.fromkeys(NOTES, b"\0\5\x16\7")
    if form == "zip":
        archive = make_zip(tmp_path / "a.zip", files)
    else:
        archive = make_tar(tmp_path / "a.tar", [(tarfile.TarInfo(name), content) for name, content in files.items()])
    folder = unpack(archive, tmp_path / "content", Limits(files=len(NOTES)))
    assert folder.name == "model"
    assert [path.name for path in folder.rglob("*")] == ["a"]


def test_a_large_file_is_not_left_out_for_its_name(tmp_path):
    weights = os.urandom(archive_members.MAX_NOTE_BYTES + 1)
    assert (unpack(make_zip(tmp_path / "a.zip", {"._a": weights, "b": b""}), tmp_path / "c") / "._a").read_bytes() == weights


def test_notes_are_not_counted_without_an_end(tmp_path):
    archive = make_zip(tmp_path / "many.zip", {f"._{number}": b"" for number in range(11)})
    with pytest.raises(UnsafeArchive, match="more than 10 files"):
        unpack(archive, tmp_path / "content", Limits(files=10))


def test_backslashes_of_windows_are_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for name, content in {"model\\": b"", "model\\unet\\config.json": b"{}", "model\\model_index.json": b"1"}.items():
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            archive.writestr(entry, content)
    folder = unpack(tmp_path / "windows.zip", tmp_path / "content")
    assert folder.name == "model"
    assert (folder / "unet" / "config.json").read_bytes() == b"{}"


def test_of_a_cache_of_the_hub_the_current_revision_is_the_root(tmp_path):
    cache = {"models--a--b/blobs/1": b"1", "models--a--b/refs/main": b"new", "models--a--b/snapshots/old/a": b"old"}
    entries = cache | {"models--a--b/snapshots/new/a": b"new"}
    assert (unpack(make_zip(tmp_path / "a.zip", entries), tmp_path / "a") / "a").read_bytes() == b"new"
    del entries["models--a--b/refs/main"]
    with pytest.raises(InvalidCheckpoint, match=r"a cache of the hub with several revisions \(new, old\)"):
        unpack(make_zip(tmp_path / "b.zip", entries), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("beside", ["model.safetensors", "unet/config.json"])
def test_what_lies_beside_a_cache_is_not_passed_over(tmp_path, beside):
    cache = {"models--a--b/refs/main": b"1", "models--a--b/snapshots/1/a": b"1"}
    root = unpack(make_zip(tmp_path / "a.zip", cache | {beside: b""}), tmp_path / "a")
    assert (root / beside).is_file()
    root = unpack(make_zip(tmp_path / "b.zip", cache | {f"models--a--b/{beside}": b""}), tmp_path / "b")
    assert (root / beside).is_file()


def test_a_folder_of_images_called_snapshots_is_not_a_cache(tmp_path):
    root = unpack(make_zip(tmp_path / "a.zip", {"snapshots/monday/a.png": b"1", "snapshots/b.png": b"2"}), tmp_path / "content")
    assert sorted(path.name for path in root.rglob("*.png")) == ["a.png", "b.png"]


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


def test_an_archive_with_a_password_says_so(tmp_path):
    raw = bytearray(make_zip(tmp_path / "a.zip", {"a": b"1"}).read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(UnsafeArchive, match="without a password"):
        unpack(tmp_path / "a.zip", tmp_path / "content")


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
    monkeypatch.setattr(archive_members, "MAX_ENTRIES", 2)
    path = make_zip(tmp_path / "evil.zip", dict.fromkeys("abc", b""))
    with pytest.raises(UnsafeArchive, match="more than 2 files and folders"):
        unpack(path, tmp_path / "content")
