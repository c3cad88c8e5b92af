"""``aiao webhooks``: add, list, remove, deliveries."""

from typing import Annotated

import typer

from aiao._cli.commands.models import Json
from aiao._cli.display import err, out, print_json, print_table
from aiao._client.api import Client

app = typer.Typer(
    help="Addresses that receive a message for each job that ends. Needs a token with the scope admin.", no_args_is_help=True
)

WebhookId = Annotated[str, typer.Argument(help="The webhook's identifier, whk_….")]


@app.command()
def add(url: Annotated[str, typer.Argument(help="Public https address.")], json: Json = False) -> None:
    """Add a webhook. Only the secret that verifies its messages goes to the standard output; it is not shown again."""
    with Client() as client:
        created = client.webhooks.create(url)
    if json:
        print_json(created)
    else:
        out.print(created.secret)
        err.print(f"{created.webhook.id} receives a message for each job that ends. Keep the secret: it is not shown again.")


@app.command("list")
def list_webhooks(json: Json = False) -> None:
    """List all webhooks, newest first."""
    with Client() as client:
        webhooks = list(client.webhooks.list())
    if json:
        print_json([webhook.model_dump(mode="json") for webhook in webhooks])
    else:
        rows = [[webhook.id, webhook.url, "gone" if webhook.disabled_at else "active"] for webhook in webhooks]
        print_table(["webhook", "address", "state"], rows)


@app.command()
def remove(webhook: WebhookId) -> None:
    """Remove a webhook and its log."""
    with Client() as client:
        client.webhooks.delete(webhook)
    out.print(f"{webhook} is removed.")


@app.command()
def deliveries(webhook: WebhookId, json: Json = False) -> None:
    """List deliveries, newest first: state, attempts, and the answer of the address."""
    with Client() as client:
        found = list(client.webhooks.deliveries(webhook))
    if json:
        print_json([delivery.model_dump(mode="json") for delivery in found])
    else:
        rows = [[row.id, row.event, row.state, str(row.attempts), str(row.status_code or row.error or "")] for row in found]
        print_table(["delivery", "event", "state", "attempts", "answer"], rows)
