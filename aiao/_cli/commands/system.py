"""``aiao up``, ``aiao admin`` and ``aiao demo``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from aiao._cli.demo import INSTALL, run_demo
from aiao._cli.server import python_module


def up(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the API; default 8377.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for everything the system keeps.")] = None,
) -> None:
    """Start the whole system on this machine: API, worker and a private Redis. Stop it with Ctrl-C."""
    command = python_module("service.processes.embedded", install=INSTALL)
    environment = dict(os.environ)
    if port is not None:
        environment["AIAO_PORT"] = str(port)
    if data_dir is not None:
        environment["AIAO_DATA_DIR"] = str(data_dir)
    os.execve(command[0], command, environment)  # noqa: S606


def admin(context: typer.Context) -> None:
    """Operate a service: its tenants and their tokens, in the database that AIAO_DATABASE_URL names. See aiao admin --help."""
    command = python_module("service.admin", *context.args, install="aiao-server")
    os.execv(command[0], command)  # noqa: S606


def demo(
    to: Annotated[Path, typer.Option(help="Folder for the reports.")] = Path("demo-output"),
    steps: Annotated[int | None, typer.Option(min=1, help="Embedding steps instead of the default.")] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A smaller run, about 2 minutes: the verdicts are by the same rules, but the mark, the theft and the "
            "innocent model are trained for a fraction of the steps, and show less.",
        ),
    ] = False,
) -> None:
    """Run the whole story on the shipped model: register, embed, steal, verify. About 8 minutes on 2 cores."""
    run_demo(to, steps, quick=quick)
