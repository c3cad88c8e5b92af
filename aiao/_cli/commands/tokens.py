"""``aiao tokens``: issue, list, revoke."""

from datetime import datetime
from typing import Annotated

import typer

from aiao._cli.commands.models import Json
from aiao._cli.display import err, out, print_json, print_table
from aiao._client.api import Client
from aiao._client.documents import Token

app = typer.Typer(help="Issue and revoke tokens of your tenant. Needs a token with the scope admin.", no_args_is_help=True)


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="Purpose of the token, for people.")],
    scope: Annotated[list[str], typer.Option(help="read, models:write, verifications:write or admin. Repeatable.")],
    expires_in_days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Days until the token ends. Default: it holds until it is revoked.")
    ] = None,
    json: Json = False,
) -> None:
    """Issue a token. Only its secret goes to the standard output; it is not shown again."""
    with Client() as client:
        issued = client.tokens.issue(name, scope, expires_in_days=expires_in_days)
    if json:
        print_json(issued)
    else:
        out.print(issued.secret)
        err.print(f"{issued.token.id}: {', '.join(issued.token.scopes)}. Keep the secret, it is not shown again.")


@app.command("list")
def list_tokens(json: Json = False) -> None:
    """List all tokens, newest first."""
    with Client() as client:
        tokens = list(client.tokens.list())
    if json:
        print_json([token.model_dump(mode="json") for token in tokens])
    else:
        print_table(["token", "name", "scopes", "ends", "last used"], [_row(token) for token in tokens])


@app.command()
def revoke(token: Annotated[str, typer.Argument(help="The token's identifier, tok_….")]) -> None:
    """Refuse a token from now on."""
    with Client() as client:
        client.tokens.revoke(token)
    out.print(f"{token} is revoked.")


def _row(token: Token) -> list[str]:
    ends = f"revoked {_day(token.revoked_at)}" if token.revoked_at else _day(token.expires_at)
    return [token.id, token.name, " ".join(token.scopes), ends, _day(token.last_used_at)]


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d}" if moment else "never"
