"""Where commands save what they make: never over a key file, and over another file only with --force."""

import json
import os
import stat
from pathlib import Path

import pytest

from aiao import ClientError
from aiao._client import key_files as keyfile
from aiao._client.output_files import check_output, is_key_file, output
from aiao_core.key import encode_secret
from tests.support import rows
from tests.support.places import PROJECT
from tests.support.processes import wait_for
from tests.support.shell import run

GOLDEN = PROJECT / "tests" / "golden"
SECRET = encode_secret(bytes(range(32)))
KEY = (GOLDEN / "key-v2.json").read_bytes()
SAVED = json.dumps({"format": keyfile.SAVED_SECRET, "secret": SECRET, "model_id": "mdl_1"})
KEYS = {
    "key": KEY,
    "key of version 1": (GOLDEN / "key-v1.json").read_bytes(),
    "key with a mark": b"\xef\xbb\xbf" + KEY,
    "key in UTF-16": KEY.decode().encode("utf-16"),
    "key on one line": json.dumps(json.loads(KEY), separators=(",", ":")).encode(),
    "key without its beginning": KEY[KEY.index(b'"secret"') :],
    "key without its end": KEY[: KEY.index(b'"secret"')],
    "saved secret": SAVED.encode(),
    "saved secret with a mark": SAVED.encode("utf-8-sig"),
    "secret": SECRET.encode(),
    "secret with a mark": SECRET.encode("utf-8-sig"),
    "secret in UTF-16": SECRET.encode("utf-16"),
    "secret in capitals": f"  {SECRET[:30].upper()}\n{SECRET[30:]}\n".encode(),
    "secret in groups": " ".join(SECRET[at : at + 4] for at in range(0, len(SECRET), 4)).encode(),
    "secret among notes": f"# the emoji model\nsecret: {SECRET}\n".encode(),
    "secret with a typing error": b"aiao1 0" + SECRET.encode()[6:],
}
COMMANDS = {
    "report": ["report", "ver_1", "--to"],
    "download": ["models", "download", "mdl_1", "--to"],
    "audit": ["audit", "mdl_1", "--report"],
    "verify": ["verify", "--model", "mdl_1", "x.zip", "--report"],
}


@pytest.fixture(params=KEYS.values(), ids=list(KEYS))
def content(request) -> bytes:
    return request.param


def refused(monkeypatch, capsys, *arguments: str) -> str:
    """The sentence of a command that is refused before it looks for a service: there is none."""
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count("\n") == 1
    return printed.err


# Before the work


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_a_file_that_exists_is_not_overwritten(nowhere, monkeypatch, capsys, command):
    (nowhere / "mine.json").write_text("mine")
    said = refused(monkeypatch, capsys, *command, "mine.json")
    assert said == "error: mine.json exists; name another file, or replace it with --force (in Python overwrite=True)\n"
    assert [(path.name, path.read_text()) for path in nowhere.iterdir()] == [("mine.json", "mine")]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_a_key_file_is_never_overwritten(nowhere, monkeypatch, capsys, command):
    (nowhere / "my.key.json").write_bytes(KEY)
    (nowhere / "soft.json").symlink_to("my.key.json")
    (nowhere / "soft twice.json").symlink_to("soft.json")
    (nowhere / "hard.json").hardlink_to(nowhere / "my.key.json")
    names = sorted(path.name for path in nowhere.iterdir())
    for name in names:
        for force in ([], ["--force"]):
            said = refused(monkeypatch, capsys, *command, name, *force)
            assert said == (
                f"error: {name} is a key file, perhaps the only copy; it is never overwritten, so name another file\n"
            )
    assert sorted(path.name for path in nowhere.iterdir()) == names
    assert all(path.read_bytes() == KEY for path in nowhere.iterdir())


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_a_folder_is_not_a_place_for_a_file(nowhere, monkeypatch, capsys, command):
    (nowhere / "folder.json").mkdir()
    assert refused(monkeypatch, capsys, *command, "folder.json") == "error: folder.json is a folder; name a file\n"


def test_the_default_name_of_a_download_is_looked_at_too(nowhere, monkeypatch, capsys):
    (nowhere / "mdl_1.zip").write_text("an older download")
    assert "mdl_1.zip exists" in refused(monkeypatch, capsys, "models", "download", "mdl_1")
    assert "no service is known" in refused(monkeypatch, capsys, "models", "download", "mdl_1", "--force")


def test_a_key_file_is_known_in_every_form_and_whatever_is_left_of_it(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    assert is_key_file(tmp_path / "key")
    with pytest.raises(ClientError, match="key is a key file, perhaps the only copy"):
        check_output(tmp_path / "key", force=True)


def test_what_this_project_makes_for_the_world_is_not_taken_for_a_key():
    published = [path for path in GOLDEN.iterdir() if path.name.startswith(("audit-", "report-", "public-key-"))]
    published += [*PROJECT.glob("benchmarks/results/*"), *PROJECT.glob("docs/*.md"), PROJECT / "README.md"]
    assert len(published) > 10
    assert [path.name for path in published if is_key_file(path)] == []


def test_a_file_in_which_a_key_would_be_far_behind_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "marked.zip").open("wb") as file:
        file.truncate(1 << 40)
    assert not is_key_file(tmp_path / "marked.zip")


def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ClientError, match="is a device or a pipe and is not replaced"):
            check_output(place, force=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everywhere")
def test_what_cannot_be_read_may_be_a_key_and_a_folder_may_be_closed(tmp_path):
    (tmp_path / "closed").write_bytes(KEY)
    (tmp_path / "closed").chmod(0)
    with pytest.raises(ClientError, match=r"cannot be read \(Permission denied\), so it may be a key file"):
        check_output(tmp_path / "closed", force=True)
    tmp_path.chmod(0o500)
    with pytest.raises(ClientError, match=r"new cannot be written \(Permission denied\)"):
        check_output(tmp_path / "new", force=False)
    tmp_path.chmod(0o700)


# After the work


def save(path: Path, *, force: bool = False, meanwhile=lambda: None) -> None:
    """Save "new" at ``path``, and let something happen while it is written."""
    check_output(path, force=force)
    with output(path, force=force) as opened:
        opened.write(b"new")
        meanwhile()


def test_a_new_file_is_one_as_any_program_makes_it(tmp_path):
    (tmp_path / "plain").touch()
    save(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_bytes() == b"new"
    assert (tmp_path / "report.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 2


def test_with_force_a_file_is_replaced_and_who_may_read_it_stays(tmp_path):
    (tmp_path / "report.json").write_text("old")
    (tmp_path / "report.json").chmod(0o600)
    save(tmp_path / "report.json", force=True)
    assert (tmp_path / "report.json").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "report.json").stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("there", [True, False])
def test_of_a_link_the_link_is_replaced(tmp_path, there):
    if there:
        (tmp_path / "old").write_text("old")
    (tmp_path / "report.json").symlink_to("old")
    with pytest.raises(ClientError, match="exists"):
        save(tmp_path / "report.json")
    save(tmp_path / "report.json", force=True)
    assert not (tmp_path / "report.json").is_symlink()
    assert (tmp_path / "report.json").read_bytes() == b"new"
    assert (tmp_path / "old").exists() is there


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appeared_meanwhile_stays_and_the_new_one_is_kept(tmp_path, monkeypatch, links):
    if not links:  # as of a USB stick
        monkeypatch.setattr("os.link", refuse_links)
    file = tmp_path / "report.json"
    with pytest.raises(ClientError, match=r"report\.json appeared meanwhile and is not overwritten") as refusal:
        save(file, meanwhile=lambda: file.write_text("theirs"))
    kept = Path(str(refusal.value).rpartition(" saved as ")[2])
    assert (file.read_text(), kept.read_bytes(), kept.suffix) == ("theirs", b"new", ".json")
    assert sorted(tmp_path.iterdir()) == sorted([file, kept])


def test_a_file_that_appeared_after_the_last_look_stays_too(tmp_path, monkeypatch):
    monkeypatch.setattr("aiao._client.output_files._check_free", lambda file, force: None)
    for links in (True, False):
        if not links:
            monkeypatch.setattr("os.link", refuse_links)
        file = tmp_path / f"report-{links}.json"
        with pytest.raises(ClientError, match="appeared meanwhile"):
            save(file, meanwhile=lambda file=file: file.write_bytes(KEY))
        assert file.read_bytes() == KEY


def test_a_key_that_appeared_meanwhile_stays_even_with_force(tmp_path):
    file = tmp_path / "my.key.json"
    with pytest.raises(ClientError, match="appeared meanwhile"):
        save(file, force=True, meanwhile=lambda: keyfile.save_secret(file, SECRET, "mdl_1"))
    assert keyfile.load_seed(file)
    assert len(list(tmp_path.iterdir())) == 2


def test_without_hard_links_a_new_file_is_saved_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", refuse_links)
    save(tmp_path / "report.json")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("report.json", b"new")]


def refuse_links(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_what_breaks_off_leaves_what_was_there_and_nothing_else(tmp_path):
    (tmp_path / "report.json").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "report.json", force=True, meanwhile=interrupt)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.json", "old")]


def interrupt() -> None:
    raise KeyboardInterrupt


def test_the_longest_name_of_a_file_can_be_written(tmp_path):
    name = "é" * 125 + ".json"
    save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


# With a service. It speaks HTTP alone, so one database is enough.

postgresql = pytest.mark.parametrize("api", ["postgresql"], indirect=True, scope="session")


@pytest.fixture
def ready(client, folder, publish) -> str:
    """A model whose embedding is done."""
    registration = client.models.register(folder, name="mine")
    publish(registration.model.id, registration.secret_key)
    return registration.model.id


@postgresql
def test_a_download_replaces_a_file_with_force_alone(user, client, ready):
    target = user.folder / "marked.zip"
    target.write_text("mine")
    theirs = user.folder / "marked.zip.partial"
    theirs.write_bytes(KEY)
    assert "marked.zip exists" in user.error("models", "download", ready, "--to", "marked.zip")
    assert target.read_text() == "mine"
    assert user.aiao("models", "download", ready, "--to", "marked.zip", "--force").stdout == "Saved marked.zip\n"
    assert target.stat().st_size == client.models.get(ready).checkpoint.size
    assert theirs.read_bytes() == KEY
    assert "is a key file" in user.error("models", "download", ready, "--to", theirs.name, "--force")
    with pytest.raises(ClientError, match="is a key file"):
        client.models.download(ready, theirs)
    assert theirs.read_bytes() == KEY
    assert sorted(path.name for path in user.folder.glob("marked*")) == ["marked.zip", "marked.zip.partial"]


@postgresql
def test_a_file_that_appears_during_a_download_stays(client, ready, tmp_path):
    target = tmp_path / "marked.zip"
    with pytest.raises(ClientError, match="appeared meanwhile"):
        client.models.download(ready, target, overwrite=False, progress=lambda *_: target.write_text("theirs"))
    assert target.read_text() == "theirs"
    (kept,) = tmp_path.glob("marked-*.zip")
    assert kept.stat().st_size == client.models.get(ready).checkpoint.size


@postgresql
def test_a_file_that_appears_while_an_audit_runs_stays(user, client, backstage, ready):
    running = user.begin("audit", ready, "--report", "a.json")
    wait_for(lambda: list(client.audits.list(ready)), "no audit was started")
    (user.folder / "a.json").write_text("theirs")
    (audit,) = client.audits.list(ready)
    rows.finish_audit(backstage, rows.model(backstage.database, ready).tenant_id, audit.id, audit.job_id)
    status, out, err = running.done()
    assert status == 2
    assert "WITHSTOOD" in out
    (kept,) = user.folder.glob("a-*.json")
    assert err.endswith(f"error: a.json appeared meanwhile and is not overwritten; the result is saved as {kept.name}\n")
    assert (user.folder / "a.json").read_text() == "theirs"
    assert kept.read_text() == client.audits.report(audit.id)
    assert "a.json exists" in user.error("report", audit.id, "--to", "a.json")
    user.aiao("report", audit.id, "--to", "a.json", "--force")
    assert (user.folder / "a.json").read_bytes() == kept.read_bytes()
