"""``aiao artifacts``: list, delete."""

from typing import Annotated

import typer

from aiao._cli.commands.models import Json
from aiao._cli.display import out, print_json, print_table
from aiao._client.api import Client

app = typer.Typer(help="List and delete uploaded files.", no_args_is_help=True)


@app.command("list")
def list_artifacts(json: Json = False) -> None:
    """List all uploaded files, newest first."""
    with Client() as client:
        artifacts = list(client.artifacts.list())
    if json:
        print_json([artifact.model_dump(mode="json") for artifact in artifacts])
    else:
        rows = [[each.id, each.filename, each.kind, f"{each.size:,}", each.sha256[:12]] for each in artifacts]
        print_table(["artifact", "file", "kind", "bytes", "SHA-256"], rows)


@app.command()
def delete(artifact: Annotated[str, typer.Argument(help="The artifact's identifier, art_….")]) -> None:
    """Delete a file. Refused while a model or an unfinished job needs it. Reports keep its name and digest."""
    with Client() as client:
        client.artifacts.delete(artifact)
    out.print(f"{artifact} is deleted.")
