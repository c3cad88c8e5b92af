import json
import os
import pty
import termios
from importlib import metadata

import pytest

from aiao_core.key import commitment, encode_secret
from tests.support.places import GOLDEN
from tests.support.processes import free_port, wait_for
from tests.support.shell import AIAO, run

SEED = bytes(range(32))
SECRET = encode_secret(SEED)
COMMANDS = [
    [],
    ["up"],
    ["demo"],
    ["doctor"],
    ["models", "register"],
    ["models", "list"],
    ["models", "show"],
    ["models", "download"],
    ["models", "retire"],
    ["verify"],
    ["report"],
    ["audit"],
    ["jobs", "list"],
    ["jobs", "watch"],
    ["jobs", "cancel"],
    ["key", "check"],
    ["key", "complete"],
    ["key", "opened"],
    ["tokens", "issue"],
    ["tokens", "list"],
    ["tokens", "revoke"],
    ["webhooks", "add"],
    ["webhooks", "list"],
    ["webhooks", "remove"],
    ["webhooks", "deliveries"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(nowhere, monkeypatch, capsys, command):
    assert run(monkeypatch, *command, "--help") == 0
    printed = capsys.readouterr()
    assert f"Usage: aiao {' '.join(command)}".strip() in printed.out
    assert not printed.err


def test_it_tells_its_version(shell):
    assert shell.aiao("--version").stdout.strip() == metadata.version("aiao")


@pytest.mark.process
def test_the_operators_commands_are_passed_on(shell):
    done = shell.process("admin", "tokens", "issue", "--help")
    assert "Usage: aiao admin" in done.stdout
    assert "--expires-in-days" in done.stdout


@pytest.mark.process
def test_the_installed_command_explains_itself(shell):
    assert "models" in shell.process("--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["verify"],
        ["verify", "--surprise", "x.zip"],
        ["verify", "--max-log10-p", "-1", "x.zip"],
        ["verify", "--offline", "--key", "k", "--draws", "0", "x.zip"],
        ["verify", "--offline", "--key", "k", "--seed", "-1", "x.zip"],
        ["verify", "--model", "mdl_1", "--decoys", "many", "x.zip"],
        ["models", "register", "folder"],
        ["audit"],
        ["audit", "mdl_1", "--preset", "slow"],
        ["audit", "mdl_1", "--draws", "3"],
        ["key", "opened"],
        ["jobs", "watch"],
        ["up", "--port", "70000"],
        ["demo", "--steps", "0"],
    ],
)
def test_bad_usage_is_an_error_and_no_verdict(nowhere, monkeypatch, capsys, arguments):
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert "Usage: aiao" in printed.err
    assert not printed.out


@pytest.mark.process
def test_bad_usage_is_exit_status_2_in_a_shell_too(shell):
    assert "No such option: --surprise" in shell.process("verify", "--surprise", "x.zip", status=2).stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["verify", "x.zip"], "name the registered model: aiao verify --model mdl_"),
        (["verify", "--model", "mdl_1", "--key", "k", "x.zip"], "k cannot be read"),
        (["audit", "mdl_1", "--key", "k"], "k cannot be read"),
        (["verify", "--model", "mdl_1", "--seed", "7", "x.zip"], "with a seed of choice a test is repeated until it matches"),
        (["verify", "--model", "mdl_1", "--draws", "3", "x.zip"], "draws is 4 in every verdict, not 3"),
        (["verify", "--model", "mdl_1", "--decoys", "0", "x.zip"], "decoys is 8 in every verdict, not 0"),
        (["verify", "--model", "mdl_1", "--decoys", "0", "x.zip"], "to explore there is --offline"),
        (["key", "opened", "mdl_1"], "no service is known: start one with `aiao up`"),
        (["verify", "--offline", "x.zip"], "needs the owner's key and no model: aiao verify --offline --key"),
        (["verify", "--offline", "--key", "k", "--model", "mdl_1", "x.zip"], "needs the owner's key and no model"),
        (["verify", "--offline", "--key", "k", "--report", "r.pdf", "x.zip"], "r.pdf is neither .html nor .json"),
        (["verify", "--model", "mdl_1", "--json", "x.zip"], "no service is known: start one with `aiao up`"),
        (["verify", "--offline", "--key", "k", "--report", "no/r.html", "x.zip"], "no is not a folder"),
        (["report", "ver_1", "--to", "r"], "r is neither .html nor .json"),
        (["audit", "mdl_1", "--preset", "quick", "--attack", "weight-clipping"], "either --preset or --attack"),
        (["audit", "mdl_1", "--attack", "surprise"], "unknown attack surprise; choose from full-fine-tuning-200"),
        (["audit", "mdl_1", "--report", "r"], "r is neither .html nor .json"),
        (["audit", "mdl_1", "--report", "no/r.json"], "no is not a folder"),
        (["report", "ver_1", "--to", "no/r.json"], "no is not a folder"),
        (["models", "download", "mdl_1", "--to", "no/marked.zip"], "no is not a folder"),
        (["models", "download", "mdl_1", "--to", "."], ". is a folder; name a file"),
        (["models", "download", "mdl_1", "--to", "模型" * 60], "cannot be written (File name too long)"),
        (["audit", "mdl_1"], "no service is known: start one with `aiao up`"),
        (["models", "list"], "no service is known: start one with `aiao up`"),
        (["models", "register", "x", "--name", "n", "--option", "steps"], "--option steps is not NAME=VALUE"),
        (
            ["models", "register", "x", "--name", "n", "--option", "steps=many"],
            "--option steps: Input should be a valid integer",
        ),
        (["models", "register", "x", "--name", "n", "--option", "steps=0"], "--option steps: Input should be greater"),
        (["models", "register", "x", "--name", "n", "--option", "steps=1e999"], "--option steps: "),
        (["models", "register", "x", "--name", "n", "--option", "surprise=1"], "--option surprise: "),
        (["models", "register", "x", "--name", "n", "--key-file", "no/k.json"], "no is not a folder that you can write to"),
        (["models", "register", "x", "--name", "模型" * 60], "cannot be written (File name too long)"),
    ],
)
def test_what_cannot_work_is_refused_in_words_before_any_work(nowhere, monkeypatch, capsys, arguments, reason):
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert reason in printed.err
    assert not printed.out
    assert not list(nowhere.iterdir())


def test_a_mistake_in_the_program_is_no_verdict(nowhere, monkeypatch, capsys):
    """Python's own exit status for an exception is 1, which is that of "no match"."""
    monkeypatch.setattr("aiao._client.key_files.load_seed", None)
    assert run(monkeypatch, "key", "check", "key") == 2
    assert "TypeError" in capsys.readouterr().err


def test_no_service_running_is_said_in_words(shell, folder):
    shell.environment |= {"AIAO_URL": f"http://127.0.0.1:{free_port()}", "AIAO_TOKEN": "token"}
    for command in (["models", "list", "--json"], ["models", "register", str(folder), "--name", "mine"]):
        assert "nothing answers at http://127.0.0.1" in shell.error(*command)
    assert not list(shell.folder.glob("*.key.json"))


@pytest.mark.parametrize("content", [f" {SECRET[:30].upper()}\n{SECRET[30:]}\n", (GOLDEN / "key-v1.json").read_text()])
def test_a_key_is_checked(shell, content):
    (shell.folder / "key").write_text(content)
    done = shell.aiao("key", "check", "key")
    assert f"The key is valid. Commitment: {commitment(SEED)}" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_a_secret_is_checked_from_the_standard_input(shell):
    done = shell.aiao("key", "check", "--json", stdin=f"{SECRET}\n")
    assert json.loads(done.stdout) == {"valid": True, "commitment": commitment(SEED)}
    assert done.stderr == ""


@pytest.mark.process
def test_a_secret_is_asked_for_in_a_terminal_and_not_shown(shell):
    child, terminal = pty.fork()
    if child == 0:
        os.execve(AIAO, [AIAO, "key", "check"], shell.environment)
    # The command asks, then hides what is typed, and forgets what was typed before that.
    wait_for(lambda: not termios.tcgetattr(terminal)[3] & termios.ECHO, "what is typed is not hidden")
    os.write(terminal, f"{SECRET}\n".encode())
    shown = b""
    try:
        while more := os.read(terminal, 1000):
            shown += more
    except OSError:  # how a terminal says that nobody is left
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"Secret key" in shown
    assert commitment(SEED).encode() in shown
    assert SECRET.encode() not in shown


def test_a_typing_error_is_found_and_the_secret_not_repeated(shell):
    mistyped = SECRET[:-1] + ("a" if SECRET[-1] != "a" else "b")
    (shell.folder / "key").write_text(mistyped)
    for done in (shell.error("key", "check", "key"), shell.error("key", "check", stdin=mistyped)):
        assert "the checksum of this secret key is wrong: at least one character was mistyped" in done
        assert mistyped not in done
    assert "begins with aiao1" in shell.error("key", "check", stdin="")
