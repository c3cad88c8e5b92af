"""HTTP calls for verifications."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from aiao_core.reports.summary import Summary
from aiao_core.reports.verdicts import Verdict
from aiao_core.reports.verification import Report
from aiao_core.reports.verification_page import summary_to_html, to_html
from service.auth.callers import Caller
from service.auth.dependencies import CallerFirst, ContextDep, Reader, VerificationWriter
from service.idempotency import IdempotentJson
from service.jobs.accepting import accept
from service.jobs.repository import JobRepository
from service.jobs.schemas import JobOut
from service.jobs.with_job_state import with_states
from service.kit.errors import Conflict, responses
from service.kit.etags import PreconditionDep, conditional, weak
from service.kit.ids import pattern
from service.kit.report_responses import JSON_OR_PAGE, Accept, report_response
from service.kit.schemas import Page, PageQuery, VerificationId
from service.tables.jobs import Job
from service.tables.verifications import Verification
from service.verifications import service
from service.verifications.repository import VerificationRepository
from service.verifications.schemas import ReportSummary, Submitted, VerificationIn, VerificationOut

router = APIRouter(prefix="/v1/verifications", tags=["verifications"], route_class=CallerFirst)


@router.post(
    "",
    status_code=202,
    summary="Submit a suspect",
    response_model=Submitted,
    responses=responses(400, 401, 403, 404, 409, 413, 422),
)
def submit(request: VerificationIn, context: ContextDep, caller: VerificationWriter, idempotency: IdempotentJson) -> Response:
    """Test whether a checkpoint was made with knowledge of a registered model's key or of its marked weights."""

    def submitted(session: Session) -> tuple[Job, Submitted]:
        verification, job = service.submit(session, context, caller, request)
        return job, Submitted(verification=_shown(session, caller, [verification])[0], job=JobOut.model_validate(job))

    return accept(context, caller, idempotency, "verification.submit", submitted)


@router.get("", summary="List verifications", responses=responses(401, 422))
def list_verifications(
    context: ContextDep,
    caller: Reader,
    paging: PageQuery,
    model_id: Annotated[str | None, Query(pattern=pattern("mdl"))] = None,
    verdict: Verdict | None = None,
) -> Page[VerificationOut]:
    """All of them, or those against one model or with one verdict."""
    with context.database.read_session() as session:
        rows, next_cursor = VerificationRepository(session, caller.tenant_id).page(paging, model_id=model_id, verdict=verdict)
        return Page(items=_shown(session, caller, rows), next_cursor=next_cursor)


@router.get("/{verification_id}", summary="Show a verification", responses=conditional() | responses(401, 404, 422))
def show(
    verification_id: VerificationId, context: ContextDep, caller: Reader, precondition: PreconditionDep
) -> VerificationOut:
    """The verdict and its figures; the full report is a call of its own."""
    with context.database.read_session() as session:
        row = VerificationRepository(session, caller.tenant_id).get(verification_id)
        shown = _shown(session, caller, [row])[0]
        precondition.check(weak(shown.model_dump_json()))  # with what this caller may see, and the numbers of a running test
        return shown


@router.get(
    "/{verification_id}/report",
    summary="Get the report",
    response_model=Report | ReportSummary,
    responses=JSON_OR_PAGE | responses(401, 404, 409, 422),
)
def report(
    verification_id: VerificationId,
    context: ContextDep,
    caller: Reader,
    precondition: PreconditionDep,
    accept: Accept = "",
) -> Response:
    """Everything that the verdict rests on, as versioned JSON or as a self-contained page.

    A token with the scope `models:write`, and the token that submitted the suspect with the key's secret, get the full report.
    Others get its summary: verdict and a coarse bound, for figures of many suspects would spell out the key.
    """
    with context.database.read_session() as session:
        row = VerificationRepository(session, caller.tenant_id).get(verification_id)
        state = JobRepository(session, caller.tenant_id).get(row.job_id).state
        stored = row.report  # after the state: once it has succeeded the report is there
    if stored is None:
        raise Conflict(f"{verification_id} has no report: it is {state}; follow {row.job_id}")
    if service.may_see_figures(caller, row):
        return report_response(stored, lambda: to_html(Report.from_json(stored)), accept, precondition)
    summary = Summary.of(Report.from_json(stored))
    return report_response(summary.to_json(), lambda: summary_to_html(summary), accept, precondition)


def _shown(session: Session, caller: Caller, rows: list[Verification]) -> list[VerificationOut]:
    shown = with_states(VerificationOut, session, caller.tenant_id, rows, outcome="verdict")
    return [each if service.may_see_figures(caller, row) else each.coarse() for each, row in zip(shown, rows, strict=True)]
