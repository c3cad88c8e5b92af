"""The operator's command line: tenants and their tokens, straight in the database that the settings name.

aiao admin --help
"""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer
from pydantic import BaseModel, ValidationError
from sqlalchemy.orm import Session

from service.activity.service import OPERATOR, record
from service.artifacts.repository import ArtifactRepository
from service.context import Context
from service.kit.errors import NotFound, ServiceError
from service.kit.roles import UnsuitableRole, grant
from service.kit.schemas import Paging
from service.settings import InvalidSettings, read_settings
from service.tables.activity import Activity
from service.tables.tokens import Tenant
from service.tenants import Tenants, tenant_named
from service.tokens import service
from service.tokens.repository import TokenRepository
from service.tokens.schemas import TokenIn, TokenOut
from service.vault.key_encryption import VaultError
from service.vault.sealed_rows import rotate

app = typer.Typer(
    help="Operate the service: tenants, tokens, the key-encryption key.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback must not show what a variable holds
)
tenants = typer.Typer(help="Manage tenants. No tenant sees another's things.", no_args_is_help=True)
tokens = typer.Typer(help="Manage the bearer tokens of a tenant.", no_args_is_help=True)
app.add_typer(tenants, name="tenants")
app.add_typer(tokens, name="tokens")

ROTATED_AT_ONCE = 100
"""Owner keys in one transaction."""

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")]


@app.command()
def migrate(
    service_role: Annotated[
        str | None,
        typer.Option(
            help="PostgreSQL role of the service's processes, to which this command's role then grants what they need: all "
            "tables' rows, but of the activity log only reading and adding."
        ),
    ] = None,
) -> None:
    """Migrate the database to this version's schema. Safe to repeat."""
    with _context() as context:
        context.database.migrate()
        if service_role:
            with context.database.engine.begin() as connection:
                grant(connection, service_role, append_only={Activity.__tablename__})


@app.command()
def rotate_kek() -> None:
    """Seal every secret again under AIAO_KEY_ENCRYPTION_KEY. Safe to repeat; the service keeps running.

    First give every process the new key as one of AIAO_FORMER_KEY_ENCRYPTION_KEYS. Then give every process the new one as
    AIAO_KEY_ENCRYPTION_KEY and the old one as a former key. Afterwards remove the old one.
    """
    done, count = 0, 1
    with _context() as context:
        while count:
            with context.database.session() as session:
                count = rotate(session, context.vault, ROTATED_AT_ONCE)
            done += count
        print(f"{done} secrets were sealed again; every secret is now under {context.vault.key_id}")  # noqa: T201


@tenants.command("create")
def create_tenant(name: TenantName) -> None:
    """Create a tenant, unless it exists, and print its identifier."""
    with _session() as session:
        print(tenant_named(session, name).id)  # noqa: T201


@tenants.command("list")
def list_tenants() -> None:
    """List the identifier and the name of each tenant, one a line."""
    with _session() as session:
        for tenant in Tenants(session).all():
            print(tenant.id, tenant.name)  # noqa: T201


@tenants.command()
def quota(
    name: TenantName,
    limit: Annotated[
        str | None, typer.Argument(metavar="[BYTES]", help="Maximum bytes of its uploads, or none for no limit.")
    ] = None,
) -> None:
    """Print the bytes that a tenant's uploads take, and their maximum. With BYTES, set the maximum first."""
    if limit not in (None, "none") and not (limit.isascii() and limit.isdigit()):
        raise typer.BadParameter(f"{limit} is neither a number of bytes nor none")
    with _session() as session:
        tenant = _existing(session, name)
        if limit is not None:
            tenant.quota_bytes = None if limit == "none" else int(limit)
            record(session, tenant.id, OPERATOR, "tenant.quota", tenant.id)
        print(ArtifactRepository(session, tenant.id).bytes_used(), tenant.quota_bytes)  # noqa: T201


@tokens.command()
def issue(
    tenant: TenantName,
    name: Annotated[str, typer.Option(help="Purpose of the token, for people.")] = "issued by the operator",
    scope: Annotated[
        list[str] | None, typer.Option(help="read, models:write, verifications:write or admin (default). Repeatable.")
    ] = None,
    expires_in_days: Annotated[
        int | None, typer.Option(help="Days until the token ends. Default: it holds until it is revoked.")
    ] = None,
) -> None:
    """Print a new token of a tenant, which is created unless it exists. The token is not shown again."""
    try:
        request = TokenIn(name=name, scopes=scope or ["admin"], expires_in_days=expires_in_days)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())) from error
    with _session() as session:
        token, secret = service.issue(session, tenant_named(session, tenant).id, request)
        record(session, token.tenant_id, OPERATOR, "token.issue", token.id)
    print(secret)  # noqa: T201


@tokens.command("list")
def list_tokens(tenant: TenantName) -> None:
    """List a tenant's tokens without their secrets, newest first, each as a line of JSON."""
    with _session() as session:
        repository = TokenRepository(session, _existing(session, tenant).id)
        cursor: str | None = None
        while True:
            rows, cursor = repository.page(Paging(200, cursor))
            for row in rows:
                _print(TokenOut.model_validate(row))
            if cursor is None:
                return


@tokens.command()
def revoke(tenant: TenantName, token_id: Annotated[str, typer.Argument(help="tok_…")]) -> None:
    """Refuse a token from now on."""
    with _session() as session:
        tenant_id = _existing(session, tenant).id
        service.revoke(session, tenant_id, token_id)
        record(session, tenant_id, OPERATOR, "token.revoke", token_id)


def _existing(session: Session, name: str) -> Tenant:
    tenant = Tenants(session).named(name)
    if tenant is None:
        raise NotFound(f"unknown tenant {name}; list the tenants with: aiao admin tenants list")
    return tenant


@contextmanager
def _context() -> Iterator[Context]:
    """Open what the settings name. Print errors as one sentence, without a traceback."""
    try:
        with closing(Context.open(read_settings())) as context:
            yield context
    except (InvalidSettings, ServiceError, UnsuitableRole, VaultError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@contextmanager
def _session() -> Iterator[Session]:
    with _context() as context, context.database.session() as session:
        yield session


def _print(document: BaseModel) -> None:
    print(json.dumps(document.model_dump(mode="json")))  # noqa: T201


if __name__ == "__main__":
    app(prog_name="aiao admin")
