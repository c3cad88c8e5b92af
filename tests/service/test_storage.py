import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.storage import Storage


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage((tmp_path / "the storage").as_uri())


@given(content=st.binary(max_size=1000))
def test_what_is_put_comes_back(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("storage")
    (folder / "file").write_bytes(content)
    storage = Storage((folder / "objects").as_uri())
    storage.put("a/b", folder / "file")
    storage.download("a/b", folder / "copy")
    assert (folder / "copy").read_bytes() == content


def test_a_large_object_comes_back_in_chunks(storage, tmp_path):
    content = os.urandom(20 << 20)
    (tmp_path / "file").write_bytes(content)
    storage.put("large", tmp_path / "file")
    chunks = list(storage.stream("large"))
    assert len(chunks) > 1
    assert b"".join(chunks) == content


def test_a_new_object_replaces_the_old_one(storage, tmp_path):
    for content in (b"first", b"second"):
        (tmp_path / "file").write_bytes(content)
        storage.put("key", tmp_path / "file")
    assert b"".join(storage.stream("key")) == b"second"


def test_a_missing_object_is_named_before_anything_is_written(storage, tmp_path):
    with pytest.raises(FileNotFoundError, match="a/b"):
        storage.stream("a/b")
    with pytest.raises(FileNotFoundError):
        storage.download("a/b", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_deleting_twice_is_no_error(storage, tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    storage.put("key", tmp_path / "file")
    storage.delete("key")
    storage.delete("key")
    with pytest.raises(FileNotFoundError):
        storage.stream("key")


def test_a_put_of_a_missing_file_leaves_nothing(storage, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        storage.put("key", tmp_path / "missing")
    assert not list((tmp_path / "the storage").rglob("*"))


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/../outside"])
def test_no_key_leads_out_of_the_folder(storage, tmp_path, key):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(Exception, match="path"):
        storage.put(key, tmp_path / "file")
    assert not (tmp_path / "outside").exists()


def test_the_folder_is_for_its_owner_alone_and_answers_a_ping(storage, tmp_path):
    assert (tmp_path / "the storage").stat().st_mode & 0o077 == 0
    storage.ping()


def test_other_addresses_reach_other_stores(tmp_path):
    storage = Storage("memory://")
    (tmp_path / "file").write_bytes(b"1")
    storage.put("key", tmp_path / "file")
    assert b"".join(storage.stream("key")) == b"1"
