"""The activity log: what was done, and by which actor."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from service.kit.database import Base


class Activity(Base):
    """One act. A trigger of the database refuses to change or delete a row."""

    __tablename__ = "activity"
    __table_args__ = (
        Index("ix_activity_tenant_id_id", "tenant_id", "id"),
        Index("ix_activity_tenant_id_subject_id_id", "tenant_id", "subject_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    actor: Mapped[str]
    action: Mapped[str]
    subject_id: Mapped[str]
    created_at: Mapped[datetime]
