"""Tenants: they share the service, and none sees another's things."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.kit.database import utc_now
from service.kit.ids import new_id
from service.tables.tokens import Tenant


class Tenants:
    """Queries for all tenants."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, tenant_id: str, *, lock: bool = False) -> Tenant:
        """Return a caller's tenant; under ``lock`` no other transaction locks it before this one ends."""
        query = select(Tenant).where(Tenant.id == tenant_id)
        if lock:  # rows that refer to the tenant may still come in
            query = query.with_for_update(key_share=True)
        return self.session.scalars(query).one()

    def named(self, name: str) -> Tenant | None:
        return self.session.scalar(select(Tenant).where(Tenant.name == name))

    def all(self) -> Sequence[Tenant]:
        return self.session.scalars(select(Tenant).order_by(Tenant.name)).all()

    def add(self, tenant: Tenant) -> Tenant:
        self.session.add(tenant)
        self.session.flush()
        return tenant


def tenant_named(session: Session, name: str) -> Tenant:
    """Return the tenant of that name; make it if there is none."""
    tenants = Tenants(session)
    return tenants.named(name) or tenants.add(Tenant(id=new_id("ten"), name=name, created_at=utc_now()))


def lock_tenant(session: Session, tenant_id: str) -> None:
    """Let the tenant's uploads, deletions, tests and jobs come one after the other: they share objects, limits and counts."""
    Tenants(session).get(tenant_id, lock=True)
