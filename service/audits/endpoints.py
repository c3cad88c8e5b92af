"""HTTP calls for audits."""

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from aiao_core.reports.audit import AuditReport
from aiao_core.reports.audit_page import to_html
from service.audits import service
from service.audits.repository import AuditRepository
from service.audits.schemas import AuditIn, AuditOut, AuditStarted
from service.auth.dependencies import CallerFirst, ContextDep, ModelWriter, Reader
from service.idempotency import IdempotentJson
from service.jobs.accepting import accept
from service.jobs.repository import JobRepository
from service.jobs.schemas import JobOut
from service.jobs.with_job_state import with_states
from service.kit.errors import Conflict, responses
from service.kit.etags import PreconditionDep, conditional, weak
from service.kit.report_responses import JSON_OR_PAGE, Accept, report_response
from service.kit.schemas import AuditId, ModelId, Page, PageQuery
from service.models.repository import ModelRepository
from service.tables.audits import Audit
from service.tables.jobs import Job

router = APIRouter(prefix="/v1", tags=["audits"], route_class=CallerFirst)


@router.post(
    "/models/{model_id}/audits",
    status_code=202,
    summary="Audit a model",
    response_model=AuditStarted,
    responses=responses(400, 401, 403, 404, 409, 413, 422),
)
def start(
    model_id: ModelId, request: AuditIn, context: ContextDep, caller: ModelWriter, idempotency: IdempotentJson
) -> Response:
    """Attack the watermarked model as a thief would, and test what each attack leaves of the model and of its watermark."""

    def started(session: Session) -> tuple[Job, AuditStarted]:
        audit, job = service.start(session, context, caller.tenant_id, model_id, request)
        return job, AuditStarted(audit=_shown(session, caller.tenant_id, [audit])[0], job=JobOut.model_validate(job))

    return accept(context, caller, idempotency, "audit.start", started)


@router.get("/models/{model_id}/audits", summary="List a model's audits", responses=responses(401, 404, 422))
def list_audits(model_id: ModelId, context: ContextDep, caller: Reader, paging: PageQuery) -> Page[AuditOut]:
    """Finished ones and those under way."""
    with context.database.read_session() as session:
        model = ModelRepository(session, caller.tenant_id).get(model_id)
        rows, next_cursor = AuditRepository(session, caller.tenant_id).page(paging, model_id=model.id)
        return Page(items=_shown(session, caller.tenant_id, rows), next_cursor=next_cursor)


@router.get("/audits/{audit_id}", summary="Show an audit", responses=conditional() | responses(401, 404, 422))
def show(audit_id: AuditId, context: ContextDep, caller: Reader, precondition: PreconditionDep) -> AuditOut:
    """The attacks by their outcome; the full report is a call of its own."""
    with context.database.read_session() as session:
        shown = _shown(session, caller.tenant_id, [AuditRepository(session, caller.tenant_id).get(audit_id)])[0]
        precondition.check(weak(shown.id, shown.status, shown.summary is not None))
        return shown


@router.get(
    "/audits/{audit_id}/report",
    summary="Get the report of an audit",
    response_model=AuditReport,
    responses=JSON_OR_PAGE | responses(401, 404, 409, 422),
)
def report(
    audit_id: AuditId,
    context: ContextDep,
    caller: Reader,
    precondition: PreconditionDep,
    accept: Accept = "",
) -> Response:
    """What the watermark withstands and where it ends, as versioned JSON or as a self-contained page."""
    with context.database.read_session() as session:
        row = AuditRepository(session, caller.tenant_id).get(audit_id)
        state = JobRepository(session, caller.tenant_id).get(row.job_id).state
        stored = row.report  # after the state: once it has succeeded the report is there
    if stored is None:
        raise Conflict(f"{audit_id} has no report: it is {state}; follow {row.job_id}")
    return report_response(stored, lambda: to_html(AuditReport.from_json(stored)), accept, precondition)


def _shown(session: Session, tenant_id: str, rows: list[Audit]) -> list[AuditOut]:
    return with_states(AuditOut, session, tenant_id, rows, outcome="summary")
