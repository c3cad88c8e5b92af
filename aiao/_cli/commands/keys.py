"""``aiao key``: check and complete the owner's key, and note that others have seen it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from aiao._cli.commands.models import Json, ModelId
from aiao._cli.display import out, print_json
from aiao._client import key_files as keyfile
from aiao._client.api import Client
from aiao_core.key import commitment, decode_secret

app = typer.Typer(help="Check and complete the owner's key, or note that others have seen it.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="Key file, or text file with the secret. Default: ask for the secret.")
    ] = None,
    json: Json = False,
) -> None:
    """Check a secret key for typing errors, and print its commitment."""
    # Never as an argument: the shell's history and the list of processes would keep it.
    seed = keyfile.load_seed(file) if file else decode_secret(_ask())
    if json:
        print_json({"valid": True, "commitment": commitment(seed)})
    else:
        out.print(f"The key is valid. Commitment: {commitment(seed)}")


def _ask() -> str:
    return str(typer.prompt("Secret key", hide_input=True)) if sys.stdin.isatty() else sys.stdin.read()


@app.command()
def opened(model: ModelId, json: Json = False) -> None:
    """Note that others have seen a model's key, as in a dispute: it takes no more tests. This cannot be undone."""
    with Client() as client:
        key = client.models.key_opened(model)
    if json:
        print_json(key)
        return
    out.print(f"The key of {model} is noted as opened on {key.opened_at:%Y-%m-%d %H:%M} UTC.")
    out.print("It takes no more tests, because others can make models that match it. Earlier reports stand.")
    out.print(f"Renew the model for a new key: aiao models renew {model}")


@app.command()
def complete(file: Annotated[Path, typer.Argument(help="File that `aiao models register` saved.")]) -> None:
    """Turn a saved secret into the whole key file, once the embedding is done."""
    with Client() as client:
        key = keyfile.complete(file, client.models.public_key)
    out.print(f"{file} is complete: {len(key.layers)} layers, {key.bits} bits.")
