"""What every store must do: a folder, and S3, GCS and Azure, each at a server."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.kit.credentials import Credentials
from service.kit.storage import Storage
from tests.support import stores


@pytest.fixture(scope="session")
def azure(tmp_path_factory):
    with stores.azure(tmp_path_factory.mktemp("azure")) as store:
        yield store


@pytest.fixture(scope="session")
def gcs(tmp_path_factory):
    with stores.gcs(tmp_path_factory.mktemp("gcs")) as store, store.known():  # which machine to ask is read for each token
        yield store


@pytest.fixture(params=["folder", *(pytest.param(store, marks=pytest.mark.process) for store in ("s3", "gcs", "azure"))])
def storage(request, tmp_path) -> Storage:
    if request.param == "folder":
        return Storage((tmp_path / "the storage").as_uri(), Credentials())
    return request.getfixturevalue({"s3": "bucket", "gcs": "gcs", "azure": "azure"}[request.param]).storage()


@pytest.fixture
def put(storage, tmp_path) -> Callable[[str, bytes], None]:
    def put(key: str, content: bytes) -> None:
        (tmp_path / "file").write_bytes(content)
        storage.put(key, tmp_path / "file")

    return put


def receive(storage: Storage, key: str, content: bytes, error: Exception | None = None) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1 << 20):
            yield content[start : start + (1 << 20)]
        if error:
            raise error

    asyncio.run(storage.receive(key, chunks()))


def keys(storage: Storage, folder: str) -> dict[str, int]:
    return {each.key: each.size for some in storage.list(folder) for each in some}


@given(content=st.binary(max_size=1000))
def test_what_is_put_comes_back(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("storage")
    (folder / "file").write_bytes(content)
    storage = Storage((folder / "objects").as_uri(), Credentials())
    storage.put("a/b", folder / "file")
    storage.download("a/b", folder / "copy")
    assert (folder / "copy").read_bytes() == content


def test_a_large_object_comes_back_in_chunks(storage, put):
    content = os.urandom(20 << 20)
    put("large", content)
    chunks = list(storage.stream("large"))
    assert len(chunks) > 1
    assert b"".join(chunks) == content


@pytest.mark.parametrize("size", [1, 20 << 20])
def test_what_is_received_comes_back(storage, size):
    content = os.urandom(size)
    receive(storage, "a/b", content)
    assert b"".join(storage.stream("a/b")) == content
    with storage.open("a/b") as file:
        file.seek(size - 1)
        assert file.read(10) == content[-1:]
    assert keys(storage, "a") == {"a/b": size}


def test_of_what_breaks_off_nothing_is_stored(storage):
    with pytest.raises(ZeroDivisionError):
        receive(storage, "a/b", os.urandom(20 << 20), ZeroDivisionError())
    assert keys(storage, "a") == {}
    with pytest.raises(FileNotFoundError):
        storage.stream("a/b")


def test_a_new_object_replaces_the_old_one(storage, put):
    for content in (b"first", b"second"):
        put("key", content)
    assert b"".join(storage.stream("key")) == b"second"


def test_a_list_names_the_objects_of_a_folder(storage, put):
    for key in ("a/1", "a/deeper/2", "ab/3"):
        put(key, key.encode())
    assert keys(storage, "a") == {"a/1": 3, "a/deeper/2": 10}


def test_a_missing_object_is_named_before_anything_is_written(storage, tmp_path):
    with pytest.raises(FileNotFoundError, match="a/b"):
        storage.stream("a/b")
    with pytest.raises(FileNotFoundError):
        storage.download("a/b", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_deleting_twice_is_no_error(storage, put):
    put("key", b"1")
    storage.delete("key")
    storage.delete("key")
    with pytest.raises(FileNotFoundError):
        storage.stream("key")


def test_an_object_that_is_deleted_while_it_is_read_is_missing(storage, put):
    async def read() -> None:
        chunks = storage.stream_async("key")
        await anext(chunks)
        storage.delete("key")
        await anext(chunks)

    put("key", bytes(5 << 20))
    with pytest.raises(FileNotFoundError):
        asyncio.run(read())


def test_a_put_of_a_missing_file_leaves_nothing(storage, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        storage.put("a/b", tmp_path / "missing")
    assert keys(storage, "a") == {}


@pytest.mark.parametrize("storage", ["folder"], indirect=True)
@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/../outside"])
def test_no_key_leads_out_of_the_folder(put, tmp_path, key):
    with pytest.raises(Exception, match="path"):
        put(key, b"1")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("storage", ["folder"], indirect=True)
def test_the_folder_is_for_its_owner_alone(storage, tmp_path):
    assert (tmp_path / "the storage").stat().st_mode & 0o077 == 0


def test_it_answers_a_ping(storage):
    storage.ping()


def test_gcs_asks_for_the_token_of_the_machine(gcs):
    assert httpx.get(f"{gcs.environment['GOOGLE_BASE_URL']}/{stores.BUCKET}").status_code == 401
