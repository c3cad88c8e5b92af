"""Look for bytes that a reader does not foresee, by libFuzzer (atheris), which keeps what reaches new code.

    pip install atheris
    python -m benchmarks.fuzzing archive gguf --seconds 3600

Each reader of ``tests/fuzzing/readers.py`` has a process of its own, with limits of memory and time. Bytes that end in a fault,
and those that reach lines which no others reach, are added to ``tests/fuzzing/corpus``; for each reader a line of JSON says how
many were tried.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzzing.readers import CORPUS, READERS, Reader, try_out

MEMORY_MEGABYTES = 4096
TIMEOUT_SECONDS = 30
LONGEST = 1 << 20
"""Bytes of one input, at most."""

INSTRUMENTED = ("aiao", "aiao_core", "service", "zipfile", "tarfile", "json", "gguf", "base64", "pydantic")
LARGEST_KEPT = 64 << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", choices=[*READERS, []], metavar="READER", help="all if none is named")
    parser.add_argument("--seconds", type=int, default=3600)
    chosen = parser.parse_args()
    for name in chosen.readers or READERS:
        print(json.dumps(fuzz(name, chosen.seconds)), flush=True)


def fuzz(name: str, seconds: int) -> dict[str, Any]:
    """Look for ``seconds``, or until a fault is found, and keep what is worth it."""
    with tempfile.TemporaryDirectory() as place:
        found, good, faults = (Path(place) / each for each in ("found", "good", "faults"))
        for folder in (found, good, faults):
            folder.mkdir()
        for number, content in enumerate(READERS[name].good()):
            (good / str(number)).write_bytes(content)
        known = CORPUS / name
        known.mkdir(parents=True, exist_ok=True)
        flags = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MEGABYTES}", f"-timeout={TIMEOUT_SECONDS}",
                 f"-max_len={LONGEST}", f"-artifact_prefix={faults}/", "-print_final_stats=1"]  # fmt: skip
        begun = time.monotonic()
        command = [sys.executable, "-m", "benchmarks.fuzzing_process", name, *flags, *map(str, (found, known, good))]
        told = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        tried = re.search(r"number_of_executed_units: (\d+)", told.stderr)
        wrong = sorted(
            file for file in faults.iterdir() if not file.name.startswith("slow-unit")
        )  # these depend on the machine
        kept = _worth_keeping(READERS[name], [known, good], sorted(found.iterdir(), key=lambda file: file.stat().st_size))
        for content in (*kept, *(file.read_bytes() for file in wrong)):
            (known / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    return {
        "reader": name,
        "seconds": round(time.monotonic() - begun),
        "tried": int(tried[1]) if tried else None,
        "kept": len(kept),
        "faults": [file.name for file in wrong],
        "end": told.returncode,
        "last": _last_error(told.stderr) if told.returncode else "",
    }


def _worth_keeping(reader: Reader, known: list[Path], found: list[Path]) -> list[bytes]:
    """Return the contents of those files, each small, that reach a line which nothing before them reaches."""
    reached: set[tuple[str, int]] = set()
    for file in (each for folder in known for each in folder.iterdir()):
        reached |= _lines(reader, file.read_bytes())
    kept = []
    for file in found:
        content = file.read_bytes()
        if len(content) <= LARGEST_KEPT and (more := _lines(reader, content) - reached):
            reached |= more
            kept.append(content)
    return kept


def _lines(reader: Reader, content: bytes) -> set[tuple[str, int]]:
    """The lines of instrumented modules that reading the bytes runs."""
    lines: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in INSTRUMENTED:
            return None
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        try_out(reader, content)
    except Exception:  # a fault is found by the fuzzer, not here
        pass
    finally:
        sys.settrace(None)
    return lines


def _last_error(text: str) -> str:
    told = [line for line in text.splitlines() if "Error" in line or "ERROR" in line or "Exception" in line]
    return told[0][:300] if told else text[-300:]


if __name__ == "__main__":
    main()
