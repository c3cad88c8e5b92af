"""When each tenant last had its turn in a queue."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.kit.database import Base


class Turn(Base):
    """A tenant's last turn: of tenants with equally many running jobs, the one that waits longest is next."""

    __tablename__ = "turns"

    queue: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    taken_at: Mapped[datetime]
