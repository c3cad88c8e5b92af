"""The process that looks at uploads: a hostile file may take its time or its memory, and not those of the API.

    python -P -m service.artifacts.inspector

Each line of its input is a question. It asks back for the bytes that it needs, for it has no access to the storage, and writes
a line with the answer.
"""

import json
import math
import os
import resource
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from io import SEEK_CUR, SEEK_END, SEEK_SET, BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from aiao_core.errors import InvalidCheckpoint, printable
from aiao_core.formats import adapter_names
from aiao_core.formats.identify import identify, read_header
from aiao_core.formats.inspection import inspect
from service.kit.kernel import be_first_to_go

READ_CHUNK_BYTES = 4 << 20
"""Most bytes that are asked for at once."""

NICE = 10
"""The API answers first: a hostile file may keep this process computing on one of two cores."""

Answer = dict[str, Any]


def main() -> None:
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    be_first_to_go()
    os.nice(NICE)
    for line in questions:
        question = json.loads(line)
        _limit(question["cpu_seconds"], question["memory_bytes"])
        file = cast("BinaryIO", BufferedReader(_Asked(questions, answers, question["size"])))
        try:
            answer = QUESTIONS[question["about"]](file, question["size"], question["filename"])
        except MemoryError:
            answer = {"out_of_memory": True}
        except Exception:  # for the API's log: what the file has in it must not write there as it likes
            answer = {"failed": printable(traceback.format_exc())}
        last = _address_space() > AT_START + question["memory_bytes"] // 2
        answer = answer | {"last": last or "out_of_memory" in answer}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _limit(cpu_seconds: float, memory_bytes: int) -> None:
    """Let the kernel end this process after some more seconds of computing, and refuse it much more memory than it has."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {resource.RLIMIT_CPU: math.ceil(used.ru_utime + used.ru_stime + cpu_seconds), resource.RLIMIT_CORE: 0}
    if AT_START:
        limits[resource.RLIMIT_AS] = AT_START + memory_bytes
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _address_space() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not on Linux, where the limit of memory does not hold either
        return 0
    return pages * resource.getpagesize()


AT_START = _address_space()


class _Asked(RawIOBase):
    """A file whose bytes are asked for."""

    def __init__(self, source: IO[bytes], requests: IO[bytes], size: int) -> None:
        self._source, self._requests, self._size, self._offset = source, requests, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        start = {SEEK_SET: 0, SEEK_CUR: self._offset, SEEK_END: self._size}[whence] + offset
        if start < 0:
            raise OSError("a seek to before the beginning")
        self._offset = start
        return start

    def tell(self) -> int:
        return self._offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), READ_CHUNK_BYTES, self._size - self._offset))
        if count:
            self._requests.write(json.dumps({"read": [self._offset, count]}).encode() + b"\n")
            self._requests.flush()
            content = self._source.read(count)
            if len(content) < count:
                os._exit(0)  # the API is gone
            buffer[:count] = content
            self._offset += count
        return count


def _recognized(file: BinaryIO, size: int, filename: str) -> Answer:
    """Say the kind, and of an archive or safetensors file the size of its model."""
    try:
        kind = identify(file, size, filename)
    except InvalidCheckpoint as error:
        return {"invalid": str(error)}
    return {"kind": kind, "denoiser": asdict(inspect(file)) if kind in ("archive", "safetensors") else None}


def _denoiser(file: BinaryIO, _size: int, _filename: str) -> Answer:
    return asdict(inspect(file))


def _adapter(file: BinaryIO, _size: int, _filename: str) -> Answer:
    try:
        header = read_header(file)
    except (ValueError, struct.error, RecursionError):
        return {"adapter": False}
    return {"adapter": adapter_names.is_adapter(name for name in header if name != "__metadata__")}


QUESTIONS: dict[str, Callable[[BinaryIO, int, str], Answer]] = {
    "upload": _recognized,
    "denoiser": _denoiser,
    "adapter": _adapter,
}


if __name__ == "__main__":
    main()
