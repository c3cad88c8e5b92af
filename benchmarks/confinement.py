"""What can a hostile reader of a client's file do, and which layer of its confinement stops what?

    python -m benchmarks.confinement [--bare]

A program of ours sits in the place of the reader, in the worker's own confined child, and makes 122 attempts, each in a
child of its own. With ``--bare`` it also makes them without each layer and without all of them, to show that they would
succeed: on a machine where that may do harm, do not. The exit status is 1 if any succeeds in spite of all layers.
"""

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.kit import kernel
from tests.support import hostile_reader
from worker.sandbox import client, files

LAYERS = {
    "namespaces": "worker.sandbox.namespaces.enter",
    "files": "worker.sandbox.files.version",
    "calls": "worker.sandbox.system_calls.supported",
    "limits": "worker.sandbox.limits.limit",
}
"""By the name of each layer, the function that does without it once it returns nothing."""

WITHOUT = "BENCHMARK_WITHOUT_LAYERS"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bare", action="store_true", help="also without each layer, and without all of them")
    arguments = parser.parse_args()
    columns = {"all layers": []}
    if arguments.bare:
        columns |= {f"no {name}": [name] for name in LAYERS} | {"bare": [*LAYERS]}
    print(f"Linux {os.uname().release} on {os.uname().machine}, Landlock {files.version()}, uid {os.getuid()}")
    found = {column: _outcomes(without) for column, without in columns.items()}
    print(f"\n{'attempt':44s}" + "".join(f"{column:>18s}" for column in columns))
    for name in hostile_reader.ATTEMPTS:
        print(f"{name:44s}" + "".join(f"{each[name]:>18s}" for each in found.values()))
    done = {column: sum(outcome == "done" for outcome in each.values()) for column, each in found.items()}
    print(f"{f'succeeded, of {len(hostile_reader.ATTEMPTS)}':44s}" + "".join(f"{count:>18d}" for count in done.values()))
    sys.exit(bool(done["all layers"]))


def _outcomes(without: list[str]) -> dict[str, str]:
    """Return how each attempt ended in a child that lacks these layers."""
    os.environ[WITHOUT] = ",".join(without)
    kernel.HARMLESS, client.PRELOADED = (*kernel.HARMLESS, WITHOUT), __spec__.name  # type: ignore[misc]
    for name in hostile_reader.HONEST:  # a reader that does not run is refused everything
        if (outcome := _outcome(hostile_reader.honest, name)) != "done":
            raise SystemExit(f"an honest reader cannot {name} here: {outcome}")
    outcomes = {name: _outcome(hostile_reader.attempt, name) for name in hostile_reader.ATTEMPTS}
    client._stop()
    return outcomes


def _outcome(function: Callable[..., dict[str, Any]], name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        places = hostile_reader.service(Path(folder)) | {"server": client._server().pid}
        try:
            answer = client.confined(
                function,
                {"name": name, "places": places},
                room=Path(places["room"]),
                seconds=60,
                memory_bytes=1 << 30,
                check=lambda: None,
            )
        except client.ChildEnded:
            return "ended"
    return str(answer["outcome"])


def _take_layers_away() -> None:
    """Run in the server, which imports this module before it serves."""
    for name in filter(None, os.environ.get(WITHOUT, "").split(",")):
        module, function = LAYERS[name].rsplit(".", 1)
        setattr(importlib.import_module(module), function, lambda *_: None)


if __name__ == "__main__":
    main()
else:
    _take_layers_away()
