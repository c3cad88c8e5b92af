"""What a program would inherit that a process of the service starts, asked in the process itself."""

from pathlib import Path

from tests.support.processes import wait_for

HOOK = """
import os, pathlib, subprocess, sys, threading, time

FOLDER = pathlib.Path(os.environ.get("TOLD", os.devnull))

def tell():
    while not (FOLDER / "tell").exists():
        time.sleep(0.05)
    told = subprocess.run(["env", "-0"], capture_output=True).stdout
    partial = FOLDER / f"{os.getpid()}.partial"
    partial.write_bytes(" ".join(sys.orig_argv).encode() + b"\\n" + told)
    partial.rename(FOLDER / f"{os.getpid()}.told")

def listen():
    threading.Thread(target=tell, daemon=True).start()

if "TOLD" in os.environ:
    os.register_at_fork(after_in_child=listen)
    listen()
"""
"""Run by each Python at its start: a thread that waits to be asked, and then starts a program that prints its environment."""


class Asked:
    """A folder by which every Python process that has :attr:`variables` is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(HOOK)
        self.variables = {"PYTHONPATH": str(folder), "TOLD": str(folder)}

    def answers(self, expected: dict[str, int]) -> dict[str, str]:
        """Return what was inherited by command line, once so many processes have answered whose command has the word."""
        (self.folder / "tell").touch()
        for word, count in expected.items():
            wait_for(lambda word=word, count=count: sum(word in line for line in self._told()) >= count, f"{word} says nothing")
        return self._told()

    def _told(self) -> dict[str, str]:
        read = [(file.stem, *file.read_text().split("\n", 1)) for file in self.folder.glob("*.told")]
        return {f"{command} ({number})": environment for number, command, environment in read}
