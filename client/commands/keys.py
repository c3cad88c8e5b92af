"""``aiao key``: check and complete the owner's key."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from aiao_core.key import commitment, decode_secret
from client import keyfile
from client.api import Client
from client.commands.models import Json
from client.display import out, print_json

app = typer.Typer(help="Check and complete the owner's key.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="A key file, or a text file with the secret; without it the secret is asked for.")
    ] = None,
    json: Json = False,
) -> None:
    """Is a secret key free of typing errors, and to which commitment does it belong?"""
    # Never as an argument: the shell's history and the list of processes would keep it.
    seed = keyfile.load_seed(file) if file else decode_secret(_ask())
    if json:
        print_json({"valid": True, "commitment": commitment(seed)})
    else:
        out.print(f"The key is valid. Commitment: {commitment(seed)}")


def _ask() -> str:
    return str(typer.prompt("Secret key", hide_input=True)) if sys.stdin.isatty() else sys.stdin.read()


@app.command()
def complete(file: Annotated[Path, typer.Argument(help="The file that `aiao models register` saved.")]) -> None:
    """Turn a saved secret into the whole key file, once the embedding is done."""
    with Client() as client:
        key = keyfile.complete(file, client)
    out.print(f"{file} is complete: {len(key.layers)} layers, {key.bits} bits.")
