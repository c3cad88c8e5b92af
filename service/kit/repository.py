"""The base of every repository: rows of one tenant, by identifier or page by page."""

from collections.abc import Iterable
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.kit.errors import NotFound
from service.kit.schemas import Paging

Row = TypeVar("Row", bound=Any)


class TenantRepository(Generic[Row]):
    """Queries for one table that see no row of another tenant."""

    table: ClassVar[Any]
    noun: ClassVar[str]

    def __init__(self, session: Session, tenant_id: str) -> None:
        self.session, self.tenant_id = session, tenant_id

    def get(self, row_id: str, *, lock: bool = False) -> Row:
        """Return a row. Raise :class:`NotFound` if it does not exist, and if it is another tenant's.

        Under ``lock`` no other transaction changes it before this one ends (SQLite runs one at a time anyway).
        """
        query = self._mine().where(self.table.id == row_id)
        if lock:
            query = query.with_for_update().execution_options(populate_existing=True)
        return self._found(row_id, self.session.scalar(query))

    def page(self, paging: Paging, **filters: str | None) -> tuple[list[Row], str | None]:
        """Return the rows of :meth:`query`, and the next page's cursor, if there is one."""
        rows = list(self.session.scalars(self.query(paging, **filters)))
        return rows[: paging.limit], rows[paging.limit - 1].id if len(rows) > paging.limit else None

    def query(self, paging: Paging, **filters: str | None) -> Any:
        """Select a page of rows, and one more, whose columns have the values of those ``filters`` that are not None."""
        wanted = (getattr(self.table, name) == value for name, value in filters.items() if value is not None)
        newest = paging.order == "newest"
        query = self._mine().where(*wanted).order_by(self.table.id.desc() if newest else self.table.id).limit(paging.limit + 1)
        if paging.cursor:
            query = query.where(self.table.id < paging.cursor if newest else self.table.id > paging.cursor)
        return query

    def by_id(self, row_ids: Iterable[str]) -> dict[str, Row]:
        """Return several rows by one query."""
        return {row.id: row for row in self.session.scalars(self._mine().where(self.table.id.in_(row_ids)))}

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
