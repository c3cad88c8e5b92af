"""Write what the images install, each file with the hashes of all its builds: docker/*.lock.

    make locks

The versions are those of constraints.txt. CUDA's libraries, which torch brings, are not in it, and get a file of their own.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PYTHON, PLATFORM = "3.12", "x86_64-manylinux_2_28"
"""Of the images. The hashes are those of every platform; only what is needed at all may differ."""

API, WORKER, BUILD = ("./server[aws,telemetry]", "."), ("./server[aws,telemetry]", ".[torch]"), ("hatchling",)

HEADER = """\
# {what}
# Renew it with: make locks
"""


def compiled(requirements: tuple[str, ...]) -> dict[str, str]:
    """Return all that the requirements need, by name: the line with the version, and its hashes."""
    options = [
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
        "--no-config",
        "--quiet",
        "--constraints",
        "constraints.txt",
    ]
    options += ["--python-version", PYTHON, "--python-platform", PLATFORM, "--default-index", "https://pypi.org/simple"]
    with tempfile.NamedTemporaryFile("w", suffix=".in", dir=PROJECT) as wanted:  # the folders are named from there
        wanted.write("\n".join(requirements))
        wanted.flush()
        ours = [option for name in ("aiao", "aiao-server") for option in ("--no-emit-package", name)]
        command = [sys.executable, "-m", "uv", "pip", "compile", *options, *ours, wanted.name]
        text = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
    return {block.partition("==")[0]: block for block in re.split(r"\n(?=\S)", text.strip())}


def write(name: str, what: str, blocks: dict[str, str]) -> None:
    text = HEADER.format(what=what) + "\n".join(blocks[each] for each in sorted(blocks)) + "\n"
    (PROJECT / "docker" / f"{name}.lock").write_text(text)


def main() -> None:
    pinned = {line.partition("==")[0].lower().replace("_", "-").replace(".", "-") for line in constraints()}
    api, worker = compiled(API), compiled(WORKER)
    # pip leaves setuptools out of what it lists.
    cuda = {name for name in worker if name == "torch" or name not in pinned | {"setuptools"}}
    write("build", "What builds our own distributions.", compiled(BUILD))
    write("api", "What every image has.", api)
    write("worker", "What workers have besides.", {name: worker[name] for name in worker.keys() - api.keys() - cuda})
    write("cuda", "torch for CUDA, with its libraries.", {name: worker[name] for name in cuda})


def constraints() -> list[str]:
    return [line for line in (PROJECT / "constraints.txt").read_text().splitlines() if "==" in line]


if __name__ == "__main__":
    main()
