"""What a test needs in the database, made by the service's own rules; and a key and a report without any model."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any, get_args

from sqlalchemy import select

from aiao_core import protocol
from aiao_core.key import Architecture, Layer, OwnerKey, decode_secret
from aiao_core.protocol import DECOYS, LIMIT_LOG10_P, OLD_KEYS_DRAWS, TAU
from aiao_core.reports.audit import AttackResult, AuditReport, Measured, Outcome, Summary
from aiao_core.reports.parts import BitTest, Interval, LayerResult, Reading, Readings, SubpathResult, SubpathSet, best_of
from aiao_core.reports.verdicts import Controls, Tested, decide
from aiao_core.reports.verification import NEW, Report
from service.audits import service as audits
from service.auth.callers import Caller, Scope
from service.context import Context
from service.direct_uploads.service import LIFETIME
from service.jobs.leases import Lease
from service.kit.database import Database, utc_now
from service.kit.ids import new_id
from service.models import service as models
from service.models.schemas import ModelIn
from service.tables.artifacts import Artifact
from service.tables.direct_uploads import DirectUpload
from service.tables.jobs import Job
from service.tables.keys import StoredKey
from service.tables.models import Model
from service.tenants import tenant_named
from service.tokens.schemas import TokenIn
from service.tokens.service import issue
from service.verifications import service as verifications

LAYERS = (Layer(name="a", channels=64), Layer(name="b", channels=64))
ARCHITECTURE = Architecture(class_name="UNet2DModel", config={"sample_size": 16})


def token(database: Database, tenant_id: str = "", scope: Scope = "admin") -> str:
    """A token of a new tenant, or of this one."""
    with database.session() as session:
        return issue(session, tenant_id or tenant_named(session, new_id("tenant")).id, TokenIn(name="a", scopes={scope}))[1]


def tenant(database: Database) -> str:
    """A new tenant's identifier."""
    with database.session() as session:
        return tenant_named(session, new_id("tenant")).id


def caller(tenant_id: str) -> Caller:
    """An admin's token of this tenant, which makes a call."""
    return Caller(tenant_id, new_id("tok"), frozenset({"admin"}))


def artifact(database: Database, tenant_id: str, kind: str = "archive") -> str:
    """An artifact's row alone; nothing is in storage."""
    artifact_id = new_id("art")
    with database.session() as session:
        session.add(
            Artifact(
                id=artifact_id, tenant_id=tenant_id, filename="model.zip", sha256="0" * 64, size=1, kind=kind,
                object_name=f"artifacts/{artifact_id}", created_at=utc_now(),
            )
        )  # fmt: skip
    return artifact_id


def direct_upload(database: Database, tenant_id: str) -> str:
    """A direct upload's row alone, as if the storage were a bucket."""
    upload_id, now = new_id("mpu"), utc_now()
    with database.session() as session:
        session.add(
            DirectUpload(
                id=upload_id, tenant_id=tenant_id, filename="model.zip", size=1, part_bytes=1, multipart_id="none",
                created_at=now, expires_at=now + LIFETIME,
            )
        )  # fmt: skip
    return upload_id


def registered(context: Context, tenant_id: str) -> tuple[Model, Job, str]:
    """A model under embedding, its queued job, and its secret."""
    request = ModelIn(name="model", artifact_id=artifact(context.database, tenant_id))
    with context.database.session() as session:
        return models.register(session, context, tenant_id, request)


def job(database: Database, job_id: str) -> Job:
    """The job as it is now."""
    with database.session() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def model(database: Database, model_id: str) -> Model:
    """The model as it is now."""
    with database.session() as session:
        return session.scalars(select(Model).where(Model.id == model_id)).one()


def a_key(secret: str) -> OwnerKey:
    return OwnerKey(decode_secret(secret), ARCHITECTURE, 1000, LAYERS, ((0, 1),)).bound("sha256:" + "1" * 64, protocol.VERSION)


def finish_embedding(
    context: Context, model_id: str, secret: str, checkpoint: models.Checkpoint, panel: Sequence[BitTest] = ()
) -> OwnerKey:
    """Do what a worker does at the end of an embedding."""
    row, key = model(context.database, model_id), a_key(secret)
    lease = Lease.take(context.database, row.job_id, 60)
    assert lease
    with context.database.session() as session:
        lease.succeed(session, f"/v1/models/{model_id}")
        models.mark_ready(session, context.vault, row.tenant_id, model_id, key, panel, checkpoint)
    return key


def give_old_key(context: Context, model_id: str) -> None:
    """Let the public key of a model that is ready be of version 2, as releases up to 0.3.0 made it."""
    with context.database.session() as session:
        key = session.scalars(select(StoredKey).where(StoredKey.model_id == model_id)).one()
        key.public_key = {**(key.public_key or {}), "version": 2}


def finish_verification(
    context: Context, tenant_id: str, verification_id: str, job_id: str, report: Report | None = None
) -> Report:
    """Do what a worker does with a verification: count the test, and keep its report, which is returned.

    ``report`` is by default :func:`a_report`. One from before the rules of a verdict is kept as it is, and not counted.
    """
    lease = Lease.take(context.database, job_id, 60)
    assert lease
    report = report or a_report()
    if report.suspect_weights:
        with context.database.session() as session:
            counts = verifications.counted(session, tenant_id, verification_id, report.suspect_weights)
        report = report.model_copy(update={"tests": counts})
    with context.database.session() as session:
        verifications.record_report(session, tenant_id, verification_id, report)
        lease.succeed(session, f"/v1/verifications/{verification_id}")
    return report


BITS = 1344
"""Of the tests below: so many that a figure of theirs is not found in a digest or an identifier by chance."""

FOUND, HALF_FOUND, NOT_FOUND = 1201, 867, 689
"""Matches among these bits: far beyond 2^-128, between 2^-64 and 2^-128, and what chance gives."""


def a_report(
    matches: int = FOUND,
    *,
    source: int = NOT_FOUND,
    decoy: int = NOT_FOUND,
    base: int | None = None,
    tested: Tested = "checkpoint",
    **others: Any,
) -> Report:
    """A report, of a key of version 2, whose test finds so many ``matches`` of :data:`BITS`, and its controls as many as named.

    Verdict and reason follow from these. ``base`` is what the key finds in an adapter's base.
    """
    test = best_of(ways := readings(matches))
    decoys = tuple(best_of(readings(decoy - number)) for number in range(DECOYS))
    source_test, base_test = best_of(readings(source)), None if base is None else best_of(readings(base))
    verdict, reason = decide(test, LIMIT_LOG10_P, tested, Controls(decoys, source_test, base_test))
    about = {
        "commitment": "sha256:" + "0" * 64,
        "source_weights": "sha256:" + "1" * 64,
        "suspect_weights": "sha256:" + "2" * 64,
        "model_name": "model",
        "suspect_name": "<script>alert(1)</script>",
        "suspect_form": "safetensors",
        "inputs": (),
    } | others
    return Report(
        **about,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        software={"aiao": "0"},
        verdict=verdict,
        reason=reason,
        tested=tested,
        registration="service",
        protocol=protocol.OLD_KEYS_VERSION,
        key_version=2,
        max_log10_p=LIMIT_LOG10_P,
        bound_log10_p=protocol.bound(test.log10_p),
        architecture=ARCHITECTURE.fingerprint,
        layers=(LayerResult(name="b", matches=matches, bits=BITS),),
        trigger_layers=1,
        strayed_channels=0,
        test=test,
        ways=ways,
        triggered_alone=BitTest.of(matches - 7, BITS),
        untriggered=BitTest.of(NOT_FOUND - 11, BITS),
        vs_rate=rate(0.9375),
        rs_rate=rate(0.9123),
        tau=TAU,
        decoys=decoys,
        source_test=source_test,
        base_test=base_test,
        subpaths=(SubpathResult(trigger=0, response=1, draws=73, rs=0.8912, vs=0.8219),),
        seed=protocol.verification_seed(
            about["commitment"], about["source_weights"], about["suspect_weights"], protocol.OLD_KEYS_VERSION
        ),
        draws=OLD_KEYS_DRAWS,
    )


def readings(matches: int) -> tuple[Reading, ...]:
    """Every reading of a test with a source, the first of which finds ``matches`` and the others less."""
    ways = product((False, True), get_args(SubpathSet), (False, True))
    return tuple(
        Reading(aligned=aligned, subpaths=subpaths, without_interference=without, counts=True,
                test=BitTest.of(matches - number, BITS))
        for number, (aligned, subpaths, without) in enumerate(ways)
    )  # fmt: skip


def rate(value: float) -> Interval:
    """A rate over the draws of a verdict."""
    return Interval(value=value, low=value - 0.05, high=min(1, value + 0.05), draws=OLD_KEYS_DRAWS)


def an_old_report() -> Report:
    """A match of release 0.1.0, from before the rules of a verdict: at 10^-12 it would not be one today."""
    plain, without = BitTest.of(805, BITS), BitTest.of(799, BITS)
    return Report.model_validate(
        a_report().model_dump(exclude=NEW | {"strayed_channels"})
        | {
            "version": 5,
            "max_log10_p": -9,
            "readings": Readings(plain=plain, without_interference=without),
            "test": BitTest.of(plain.matches, BITS, best_of=2),
            "layers": (LayerResult(name="b", matches=plain.matches, bits=BITS),),
            "decoys": (BitTest.of(681, BITS, best_of=2),),
            "seed": 7,
        }
    )


def finish_audit(context: Context, tenant_id: str, audit_id: str, job_id: str, *, ended: bool = False) -> AuditReport:
    """Do what a worker does at the end of an audit."""
    lease = Lease.take(context.database, job_id, 60)
    assert lease
    report = an_audit_report(ended=ended)
    with context.database.session() as session:
        for result in report.attacks:
            audits.record_result(session, tenant_id, audit_id, result)
        audits.record_report(session, tenant_id, audit_id, report)
        lease.succeed(session, f"/v1/audits/{audit_id}")
    return report


def an_audit_report(*, ended: bool = False) -> AuditReport:
    """Four attacks: the mark withstood one, one ruined the model, one was not possible, and another may have ended the mark."""

    def measured(matches: int, loss: float) -> Measured:
        test = best_of(readings(matches))
        return Measured(
            verdict="match" if test.log10_p <= LIMIT_LOG10_P else "no-match",
            test=test,
            vs_rate=Interval(value=1, low=0.9, high=1, draws=OLD_KEYS_DRAWS),
            rs_rate=Interval(value=1, low=0.9, high=1, draws=OLD_KEYS_DRAWS),
            decoys=tuple(best_of(readings(NOT_FOUND - number)) for number in range(DECOYS)),
            loss=loss,
            quality_loss=loss - 1,
        )

    attacks = (
        attack("quantisation-8", "withstood", measured(FOUND, 1.001)),
        attack("lora-4-100", *(("ended", measured(800, 0.99)) if ended else ("withstood", measured(HALF_FOUND, 0.99)))),
        attack("magnitude-pruning-70", "ruined", measured(NOT_FOUND, 4.5)),
        attack("dreambooth", "no-model", None),
    )
    return AuditReport(
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        software={"aiao": "0"},
        model_name="<script>alert(1)</script>",
        commitment="sha256:" + "0" * 64,
        key_version=2,
        architecture=ARCHITECTURE.fingerprint,
        max_log10_p=LIMIT_LOG10_P,
        max_quality_loss=0.2,
        data="own-samples",
        attack_examples=12,
        held_out_examples=4,
        published=measured(FOUND, 1),
        attacks=attacks,
        summary=Summary.of(attacks),
        inputs=(),
        tau=TAU,
        seed=0,
        draws=OLD_KEYS_DRAWS,
    )


def attack(name: str, outcome: Outcome, measured: Measured | None) -> AttackResult:
    reason = None if measured else "this denoiser has no <attention>"
    return AttackResult(
        id=name, name=f"{name} at a strength", family="tests", outcome=outcome, measured=measured, reason=reason, seconds=1.5
    )
