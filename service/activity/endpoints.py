"""The HTTP call for the activity log."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.activity.repository import ActivityRepository
from service.activity.schemas import ActivityOut
from service.auth.dependencies import Admin, ContextDep
from service.kit.errors import responses
from service.kit.id_patterns import ANY_ID
from service.kit.schemas import Page, PageQuery

router = APIRouter(prefix="/v1/activity", tags=["activity"])

Subject = Annotated[str | None, Query(pattern=ANY_ID, description="Only what was done to this model, job, token, …")]


@router.get("", summary="Who did what", responses=responses(401, 403, 422))
def list_activity(context: ContextDep, caller: Admin, paging: PageQuery, subject_id: Subject = None) -> Page[ActivityOut]:
    """Nothing in this log can be changed or deleted."""
    with context.database.read_session() as session:
        rows, next_cursor = ActivityRepository(session, caller.tenant_id).page(paging, subject_id=subject_id)
        return Page(items=[ActivityOut.model_validate(row) for row in rows], next_cursor=next_cursor)
