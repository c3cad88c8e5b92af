import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao import ClientError
from aiao._client import key_files as keyfile
from aiao_core.errors import InvalidKey
from aiao_core.key import OwnerKey, encode_secret
from tests.support import rows
from tests.support.places import GOLDEN

SEED = bytes(range(32))
SECRET = encode_secret(SEED)
PUBLIC = json.loads((GOLDEN / "public-key-v1.json").read_text())


class Models:
    """A service that knows one public key."""

    def __init__(self, public: dict) -> None:
        self.public, self.asked = public, []

    def public_key(self, model_id: str) -> dict:
        self.asked.append(model_id)
        return self.public


@pytest.fixture
def saved(tmp_path) -> Path:
    """A saved secret."""
    keyfile.save_secret(tmp_path / "my.key.json", SECRET, "mdl_1")
    return tmp_path / "my.key.json"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_saved_secret_is_for_its_owner_alone_whatever_the_umask(tmp_path):
    umask = os.umask(0)
    try:
        keyfile.save_secret(tmp_path / "my.key.json", SECRET, "mdl_1")
    finally:
        os.umask(umask)
    assert mode(tmp_path / "my.key.json") == 0o600
    assert keyfile.load_seed(tmp_path / "my.key.json") == SEED


def test_a_key_is_never_overwritten(saved):
    before = saved.read_bytes()
    with pytest.raises(ClientError, match=r"my\.key\.json exists and is not overwritten; name another file"):
        keyfile.check_free(saved)
    with pytest.raises(FileExistsError):
        keyfile.save_secret(saved, encode_secret(bytes(32)), "mdl_2")
    assert saved.read_bytes() == before


def test_a_link_is_never_followed_to_overwrite_a_key(saved, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ClientError, match="exists"):
        keyfile.check_free(tmp_path / "link")
    with pytest.raises(FileExistsError):
        keyfile.save_secret(tmp_path / "link", SECRET, "mdl_1")
    assert not (tmp_path / "nowhere").exists()


def test_a_place_where_no_key_can_be_saved_is_named_before_it_is_needed(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("missing", "file"):
        with pytest.raises(ClientError, match=f"{folder} is not a folder"):
            keyfile.check_free(tmp_path / folder / "my.key.json")
    with pytest.raises(ClientError, match=r"cannot be written \(File name too long\); name another file"):
        keyfile.check_free(tmp_path / f"{'模型' * 60}.key.json")
    keyfile.check_free(tmp_path / "my.key.json")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named_before_it_is_needed(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ClientError, match="is not a folder that you can write to"):
        keyfile.check_free(tmp_path / "my.key.json")
    tmp_path.chmod(0o700)


def test_a_saved_secret_becomes_the_whole_key_file(saved):
    service = Models(PUBLIC)
    key = keyfile.complete(saved, service.public_key)
    assert service.asked == ["mdl_1"]
    assert saved.read_text() == (GOLDEN / "key-v1.json").read_text()
    assert mode(saved) == 0o600
    assert keyfile.load_key(saved) == key == OwnerKey.from_json(saved.read_text())
    assert list(saved.parent.iterdir()) == [saved]


def test_the_public_key_comes_from_the_service(client, folder, publish, tmp_path):
    registration = client.models.register(folder, name="mine")
    keyfile.save_secret(tmp_path / "my.key.json", registration.secret_key, registration.model.id)
    with pytest.raises(ClientError, match="is not complete: the model is embedding"):
        keyfile.complete(tmp_path / "my.key.json", client.models.public_key)
    publish(registration.model.id, registration.secret_key)
    assert keyfile.complete(tmp_path / "my.key.json", client.models.public_key) == rows.a_key(registration.secret_key)
    assert keyfile.load_key(tmp_path / "my.key.json").commitment == registration.model.commitment


def test_a_completed_key_file_needs_nothing_more(saved):
    keyfile.complete(saved, Models(PUBLIC).public_key)
    whole = saved.read_text()
    with pytest.raises(InvalidKey, match="needs nothing more"):
        keyfile.complete(saved, Models(PUBLIC).public_key)
    assert saved.read_text() == whole


def test_the_public_key_of_another_model_is_refused_and_the_secret_kept(saved):
    before = saved.read_bytes()
    with pytest.raises(InvalidKey, match="belongs to the commitment"):
        keyfile.complete(saved, Models(PUBLIC | {"commitment": "sha256:" + "0" * 64}).public_key)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("public", [{}, PUBLIC | {"version": 3}, PUBLIC | {"layers": []}])
def test_a_public_key_that_this_client_does_not_know_is_refused_in_words(saved, public):
    with pytest.raises(ClientError, match="PublicKey that this client understands"):
        keyfile.complete(saved, Models(public).public_key)
    assert keyfile.load_seed(saved) == SEED


def test_what_a_crash_left_behind_does_not_stop_the_next_try(saved):
    saved.with_name(saved.name + ".partial").write_text("half a k")
    keyfile.complete(saved, Models(PUBLIC).public_key)
    assert keyfile.load_key(saved).seed == SEED
    assert list(saved.parent.iterdir()) == [saved]


def test_a_secret_alone_is_no_key_and_says_what_to_do(saved):
    with pytest.raises(InvalidKey, match=r"aiao key complete .*my\.key\.json"):
        keyfile.load_key(saved)


@pytest.mark.parametrize("text", [f"{SECRET}\n", f"  {SECRET[:30].upper()}\n{SECRET[30:]}"])
def test_a_text_file_with_the_printed_secret_has_its_seed(tmp_path, text):
    (tmp_path / "secret.txt").write_text(text)
    assert keyfile.load_seed(tmp_path / "secret.txt") == SEED


def test_all_three_forms_have_the_same_seed(saved, tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET)
    forms = [saved, tmp_path / "secret.txt", GOLDEN / "key-v1.json"]
    assert [keyfile.load_seed(form) for form in forms] == [SEED] * 3


def test_a_file_that_an_editor_marked_as_utf_8_is_read(tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET, encoding="utf-8-sig")
    assert keyfile.load_seed(tmp_path / "secret.txt") == SEED


@given(st.data())
def test_a_mistyped_secret_is_refused_in_every_form(tmp_path_factory, data):
    place = data.draw(st.integers(5, len(SECRET) - 1))
    letter = data.draw(st.sampled_from([letter for letter in "abcdefghijklmnopqrstuvwxyz234567" if letter != SECRET[place]]))
    mistyped = SECRET[:place] + letter + SECRET[place + 1 :]
    path = tmp_path_factory.getbasetemp() / "mistyped.json"
    whole = json.loads((GOLDEN / "key-v1.json").read_text())
    saved = {"format": keyfile.SAVED_SECRET, "secret": mistyped, "model_id": "mdl_1"}
    for text in (mistyped, json.dumps(saved), json.dumps(whole | {"secret": mistyped})):
        path.write_text(text)
        with pytest.raises(InvalidKey, match="checksum") as caught:
            keyfile.load_seed(path)
        assert mistyped not in str(caught.value)


@given(st.data())
def test_a_damaged_file_is_an_invalid_key_and_nothing_else(tmp_path_factory, data):
    saved = json.dumps({"format": keyfile.SAVED_SECRET, "secret": SECRET, "model_id": "mdl_1"})
    whole = data.draw(st.sampled_from([saved, (GOLDEN / "key-v1.json").read_text()])).encode()
    start = data.draw(st.integers(0, len(whole) - 2))
    damaged = whole[:start] + data.draw(st.binary(max_size=4))
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(damaged)
    for read in (keyfile.load_key, keyfile.load_seed, lambda path: keyfile.complete(path, Models(PUBLIC).public_key)):
        with pytest.raises(InvalidKey):
            read(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"format": "aiao.secret"}',
        '{"format": "aiao.secret", "secret": 1, "model_id": 2}',
        '["aiao.secret"]',
        '{"aiao.secret": ' + "[" * 100_000,
        "{" * 100_000,
    ],
)
def test_text_that_is_no_key_is_an_invalid_key(tmp_path, text):
    (tmp_path / "key").write_text(text)
    for read in (keyfile.load_key, keyfile.load_seed, lambda path: keyfile.complete(path, Models(PUBLIC).public_key)):
        with pytest.raises(InvalidKey):
            read(tmp_path / "key")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "bytes"):
        with pytest.raises(InvalidKey, match=f"{path.name} cannot be read"):
            keyfile.load_seed(path)
