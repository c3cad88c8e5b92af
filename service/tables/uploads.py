"""Uploads under way, and the parts of each that have come in."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.kit.database import Base


class Upload(Base):
    """A resumable upload, or the bytes of a quota that are held for an upload by one request.

    It is forgotten when it expires, whether it became an artifact or not.
    """

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    filename: Mapped[str]
    sha256: Mapped[str | None]
    """The digest that the client announced, if it did."""
    length: Mapped[int] = mapped_column(BigInteger)
    offset: Mapped[int] = mapped_column(BigInteger)
    """Bytes that have come in."""
    artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id"))
    token_id: Mapped[str | None]
    """The token that made it; null for one from before that was noted."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class UploadPart(Base):
    """Consecutive bytes of an upload, an object of their own until all have come."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    object_name: Mapped[str] = mapped_column("storage_key", index=True)
