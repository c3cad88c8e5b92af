"""Direct uploads under way."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.kit.database import Base


class DirectUpload(Base):
    """A multipart upload of the storage's bucket. It is forgotten when it expires, whether it became an artifact or not."""

    __tablename__ = "direct_uploads"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    filename: Mapped[str]
    sha256: Mapped[str | None]
    """The digest that the client announced, if it did."""
    size: Mapped[int] = mapped_column(BigInteger)
    part_bytes: Mapped[int] = mapped_column(BigInteger)
    """Bytes of every part but the last."""
    multipart_id: Mapped[str]
    """The bucket's name for it."""
    artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id"))
    token_id: Mapped[str | None]
    """The token that made it; null for one from before that was noted."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)

    @property
    def parts(self) -> int:
        return -(-self.size // self.part_bytes)

    def size_of(self, number: int) -> int:
        """Return the bytes of a part; the first is number 1."""
        return min(self.part_bytes, self.size - (number - 1) * self.part_bytes)
