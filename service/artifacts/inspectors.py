"""Have uploads looked at by processes of their own, a few at a time, which end if a file takes too long or too much memory.

``inspector.py`` is such a process. It stays for the next file: a start takes as long as looking at a hundred.
"""

import asyncio
import json
import logging
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, LifoQueue
from typing import IO, Any, BinaryIO, Literal, cast

from service.kit.errors import InvalidArtifact, NotReady
from service.kit.kernel import harmless_environment

logger = logging.getLogger(__name__)

Question = Literal["upload", "denoiser", "adapter"]

MAX_ANSWER_BYTES = 1 << 20

BRIEF_SECONDS = 2
"""Seconds of computing where nobody needs the answer. An honest file takes a tenth of it."""

Process = subprocess.Popen[bytes]


class Inspectors:
    """At most ``processes`` at a time, each for ``cpu_seconds`` of computing and ``memory_bytes`` beyond its own.

    The kernel counts seconds of computing, so that a busy machine refuses no honest file. ``patience_seconds`` is how long an
    inspector may leave us waiting.
    """

    def __init__(
        self, processes: int = 2, cpu_seconds: float = 20, memory_bytes: int = 384 << 20, patience_seconds: float = 120
    ) -> None:
        self.cpu_seconds, self.memory_bytes, self.patience_seconds = cpu_seconds, memory_bytes, patience_seconds
        self._places: LifoQueue[Process | None] = LifoQueue()
        for _ in range(processes):
            self._places.put(None)
        self._threads = ThreadPoolExecutor(processes, "inspection")

    async def ask(self, question: Question, open_file: Callable[[], BinaryIO], size: int, filename: str) -> dict[str, Any]:
        """Return what an inspector says about a file, once one is free.

        Raise :class:`InvalidArtifact` for a file that takes too much, and :class:`NotReady` if this machine is at fault.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, lambda: self._ask(self._places.get(), question, open_file, size, filename, self.cpu_seconds)
        )

    def ask_if_free(self, question: Question, open_file: Callable[[], BinaryIO], size: int) -> dict[str, Any] | None:
        """Return what an inspector says about a file that was taken in; None if all are busy, or the file takes too much.

        For callers that can do without it, and hold a thread meanwhile that other requests need.
        """
        try:
            return self._ask(self._places.get_nowait(), question, open_file, size, "", BRIEF_SECONDS)
        except (Empty, InvalidArtifact, NotReady):
            return None

    def _ask(
        self,
        process: Process | None,
        question: Question,
        open_file: Callable[[], BinaryIO],
        size: int,
        filename: str,
        seconds: float,
    ) -> dict[str, Any]:
        answer: dict[str, Any] = {"last": True}
        try:
            if process is None or process.poll() is not None:
                process = _start()
            limits = {"cpu_seconds": seconds, "memory_bytes": self.memory_bytes}
            with open_file() as file:
                asked = {"about": question, "size": size, "filename": filename} | limits
                answer = self._conversation(process, asked, file)
            if "out_of_memory" in answer:
                raise _too_much(f"{self.memory_bytes >> 20} MiB of memory")
            if "failed" in answer:
                raise RuntimeError(answer["failed"])
            return answer
        finally:
            # What a process holds after a large file, the next one would lack.
            last = answer.pop("last")
            if last and process:
                process.kill()
                process.communicate()
            self._places.put(None if last else process)

    def _conversation(self, process: Process, question: dict[str, Any], file: BinaryIO) -> dict[str, Any]:
        """Ask, hand over the bytes that are asked back for, and return the answer."""
        questions, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        ready = select.poll()
        ready.register(answers, select.POLLIN)
        waited, message = 0.0, json.dumps(question).encode() + b"\n"
        while True:
            try:
                questions.write(message)
                questions.flush()
            except BrokenPipeError:
                raise self._ended(process) from None
            began = time.monotonic()
            if not ready.poll(1000 * max(0, self.patience_seconds - waited)):
                raise NotReady("this machine is too busy to look at the upload; try again in a minute", {"Retry-After": "60"})
            line = answers.readline(MAX_ANSWER_BYTES)
            waited += time.monotonic() - began  # without our own reads of the storage
            if not line.endswith(b"\n"):
                raise self._ended(process)
            answer: dict[str, Any] = json.loads(line)
            if "read" not in answer:
                return answer
            offset, count = answer["read"]
            file.seek(offset)
            message = file.read(count)
            if len(message) < count:
                raise OSError(f"the storage gave {len(message)} of {count} bytes")

    def _ended(self, process: Process) -> Exception:
        status = process.wait(self.patience_seconds)
        if status == -signal.SIGXCPU:
            return _too_much(f"{self.cpu_seconds:g} seconds of computing")
        if status == -signal.SIGKILL:  # by the kernel, which needed memory, or by the operator
            return NotReady("the process that looked at the upload was killed; try again in a minute", {"Retry-After": "60"})
        return RuntimeError(f"the process that looked at an upload ended with status {status}")


def _start() -> Process:
    return subprocess.Popen(  # all of it is constant
        [sys.executable, "-P", "-m", "service.artifacts.inspector"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=harmless_environment(),
        cwd=Path("/"),
        start_new_session=True,  # Ctrl-C is for the API; an inspector ends with its input
    )


def _too_much(what: str) -> InvalidArtifact:
    logger.warning("looking at an upload took more than %s", what)
    return InvalidArtifact(
        f"looking at this file took more than {what}, which no model or image set needs; pack the folder again as a plain "
        ".zip or .tar, or save the weights as .safetensors"
    )


INSPECTORS = Inspectors()
"""Those of this process; they start when the first file comes."""
