"""What every repository shares: rows of one tenant, by identifier or page by page."""

from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service.errors import NotFound

Row = TypeVar("Row", bound=Any)


class TenantRepository(Generic[Row]):
    """Queries for one table; no row of another tenant is ever seen."""

    table: ClassVar[Any]
    noun: ClassVar[str]

    def __init__(self, session: Session, tenant_id: str) -> None:
        self.session, self.tenant_id = session, tenant_id

    def get(self, row_id: str, *, lock: bool = False) -> Row:
        """Raises :class:`NotFound` for a row that does not exist and for one of another tenant alike.

        Nobody else changes a row under ``lock`` before the transaction ends (SQLite runs one at a time anyway).
        """
        query = self._mine().where(self.table.id == row_id)
        if lock:
            query = query.with_for_update().execution_options(populate_existing=True)
        return self._found(row_id, self.session.scalar(query))

    def page(self, limit: int, cursor: str | None, *conditions: ColumnElement[bool]) -> tuple[list[Row], str | None]:
        """Newest first, starting after ``cursor``; the second part is the cursor of the next page, if there is one."""
        query = self._mine().where(*conditions).order_by(self.table.id.desc()).limit(limit + 1)
        if cursor:
            query = query.where(self.table.id < cursor)
        rows = list(self.session.scalars(query))
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    def add(self, row: Row) -> Row:
        self.session.add(row)
        self.session.flush()
        return row

    def _found(self, row_id: str, row: Row | None) -> Row:
        if row is None:
            raise NotFound(f"there is no {self.noun} {row_id} for this token")
        return row

    def _mine(self) -> Any:
        return select(self.table).where(self.table.tenant_id == self.tenant_id)
