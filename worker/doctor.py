"""The server's part of ``aiao doctor``: what this machine and its settings lack for a worker, as JSON. It changes nothing.

python -P -m worker.doctor
"""

import json
import sys
from pathlib import Path

from service.settings import InvalidSettings, read_settings
from worker.sandbox import files
from worker.sandbox.strength import has_namespaces, lacking

Row = tuple[str, str, str]
"""What was looked at, how it is (``ok``, ``fix``, or ``-`` for something that is good to have), and what to do."""


def confinement() -> list[Row]:
    """Say how far the kernel confines the processes that read clients' files."""
    if sys.platform != "linux":
        return [("confinement", "fix", "clients' files are read unconfined on this system; run workers on Linux")]
    advice = "run workers on such a kernel, or set AIAO_ALLOW_WEAK_CONFINEMENT=true if every client is trusted"
    rows: list[Row] = [("confinement", "fix", f"the kernel lacks {layer}; {advice}") for layer in lacking()]
    if not rows:
        rows.append(("confinement", "ok", f"Landlock version {files.version()} and a filter of system calls"))
    if has_namespaces():
        return [*rows, ("namespaces", "ok", "a reader of clients' files sees no other process and no network")]
    advice = "allow them by the sysctl user.max_user_namespaces, or in the container's security options"
    return [*rows, ("namespaces", "-", f"not allowed here, so that the confinement has a layer less; {advice}")]


def data_folder(folder: Path) -> Row:
    """Say whether others than their owner may use the data folder, in which database and keys are."""
    if not folder.is_dir():
        return "data folder", "-", f"{folder} is not there yet; the first process makes it"
    mode = folder.stat().st_mode
    if mode & 0o007:
        return "data folder", "fix", f"everybody on this machine may look into {folder}; run: chmod 700 '{folder}'"
    if mode & 0o070:
        return "data folder", "-", f"its group may look into {folder}; unless that is meant, run: chmod 700 '{folder}'"
    return "data folder", "ok", f"{folder} is its owner's alone"


def main() -> None:
    rows = confinement()
    try:
        rows += [("settings", "ok", "each can be used"), data_folder(read_settings().data_dir)]
    except InvalidSettings as error:
        rows.append(("settings", "fix", str(error)))
    print(json.dumps(rows))  # noqa: T201


if __name__ == "__main__":
    main()
