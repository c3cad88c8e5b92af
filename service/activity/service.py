"""Note an act and its actor, in the transaction that does it: neither is there without the other."""

from sqlalchemy.orm import Session

from service.activity.repository import ActivityRepository
from service.activity.schemas import Action
from service.kit.database import utc_now
from service.kit.ids import new_id
from service.tables.activity import Activity

OPERATOR = "operator"
"""The actor on the operator's command line."""


def record(session: Session, tenant_id: str, actor: str, action: Action, subject_id: str) -> None:
    """Note an act. ``actor`` is the identifier of a token or of a job, or :data:`OPERATOR`."""
    row = Activity(
        id=new_id("act"), tenant_id=tenant_id, actor=actor, action=action, subject_id=subject_id, created_at=utc_now()
    )
    ActivityRepository(session, tenant_id).add(row)
