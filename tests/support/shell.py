"""Run the command line: in this process, which saves a second a command, or in one of its own."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest

from aiao import Client
from aiao._cli.main import main

AIAO = str(Path(sys.executable).with_name("aiao"))


@dataclass(frozen=True)
class Done:
    """A command that has ended, and what it printed."""

    status: int
    stdout: str
    stderr: str

    def __iter__(self) -> Iterator[int | str]:
        return iter((self.status, self.stdout, self.stderr))


class Running(Thread):
    """A command that runs in a thread of this process while the test does what a worker or another user would do."""

    def __init__(self, command: Callable[[], Done]) -> None:
        super().__init__(daemon=True)
        self._command = command
        self._done: Done | None = None
        self.start()

    def run(self) -> None:
        self._done = self._command()

    def ended(self) -> bool:
        return not self.is_alive()

    def done(self) -> Done:
        """Wait for its end."""
        self.join(60)
        assert self._done is not None, "the command does not end"
        return self._done


class Shell:
    """A user who types commands, in a folder and with an environment of their own."""

    def __init__(self, folder: Path, **variables: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AIAO_") and name != "COLUMNS"}
        self.folder = folder
        self.begun: list[Running] = []
        self.environment = kept | {"AIAO_CONFIG_FILE": str(folder / "config.toml"), "OMP_NUM_THREADS": "1"} | variables

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command as a process without a terminal, as a script does: for signals, pipes and settings of its start."""
        return subprocess.Popen(
            [AIAO, *arguments], cwd=self.folder, env=self.environment, start_new_session=True, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def process(self, *arguments: str, status: int = 0) -> Done:
        """Run a process of a command to its end, which must have this exit status."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        return checked(Done(process.returncode, out, err), status)

    def begin(self, *arguments: str) -> Running:
        """Begin a command beside the test. It must end before another one begins: they share the process's folder."""
        self.begun.append(Running(lambda: self._run(arguments, "")))
        return self.begun[-1]

    def end(self, client: Client) -> None:
        """Let no command of a test that failed wait on for its job: tests after it need this process's folder."""
        if any(not running.ended() for running in self.begun):
            for job in client.jobs.list():
                client.jobs.cancel(job.id)
        for running in self.begun:
            running.join(60)

    def aiao(self, *arguments: str, status: int = 0, stdin: str = "") -> Done:
        """Run a command to its end, which must have this exit status; whatever happens, nobody sees a traceback."""
        return checked(self._run(arguments, stdin), status)

    def json(self, *arguments: str):
        """Run a command with --json and read what it printed."""
        return json.loads(self.aiao(*arguments, "--json").stdout)

    def error(self, *arguments: str, stdin: str = "") -> str:
        """The sentence of a command that is refused."""
        return refusal(self.aiao(*arguments, status=2, stdin=stdin))

    def _run(self, arguments: tuple[str, ...], stdin: str) -> Done:
        return in_process(main, ("aiao", *arguments), self.folder, self.environment, stdin)


def in_process(
    program: Callable[[], object], arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str], stdin: str = ""
) -> Done:
    """Run a program to its end as a process of its own would run, without a terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in os.environ.keys() - environment.keys():
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr("sys.argv", list(arguments))
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", err)
        status = exit_status(program)
    return Done(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def refusal(done: Done) -> str:
    """The sentence of a command that was refused."""
    assert not done.stdout
    sentence = done.stderr.splitlines()[-1]  # perhaps after what was left of a progress bar
    assert sentence.startswith("error: ")
    return sentence


def run(monkeypatch, *arguments: str) -> int:
    """Run a command in this process, with its folder, environment and output, and return its exit status."""
    monkeypatch.setattr("sys.argv", ["aiao", *arguments])
    return exit_status(main)


def exit_status(program: Callable[[], object]) -> int:
    with pytest.raises(SystemExit) as ended:
        program()
    return ended.value.code or 0


def checked(done: Done, status: int) -> Done:
    assert done.status == status, f"exit status {done.status}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done
