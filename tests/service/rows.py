"""What a test needs in the database, made by the service's own rules; and a key and a report without any model."""

from datetime import UTC, datetime

from sqlalchemy import select

from aiao_core.audit_report import AttackResult, AuditReport, Measured, Outcome, Summary
from aiao_core.key import Architecture, Layer, OwnerKey, decode_secret
from aiao_core.report import BitTest, Interval, LayerResult, Readings, Report
from service.artifacts.tables import Artifact
from service.audits import service as audits
from service.database import Database, utc_now
from service.direct_uploads.service import LIFETIME
from service.direct_uploads.tables import DirectUpload
from service.ids import new_id
from service.jobs.leases import Lease
from service.jobs.tables import Job
from service.models import service as models
from service.models.schemas import ModelIn
from service.models.tables import Model
from service.platform import Platform
from service.tokens.schemas import Scope, TokenIn
from service.tokens.service import issue, tenant_named
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


def artifact(database: Database, tenant_id: str, kind: str = "archive") -> str:
    """An artifact's row alone; nothing is in storage."""
    artifact_id = new_id("art")
    with database.session() as session:
        session.add(
            Artifact(
                id=artifact_id, tenant_id=tenant_id, filename="model.zip", sha256="0" * 64, size=1, kind=kind,
                storage_key=f"artifacts/{artifact_id}", created_at=utc_now(),
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


def registered(platform: Platform, tenant_id: str) -> tuple[Model, Job, str]:
    """A model under embedding, its queued job, and its secret."""
    request = ModelIn(name="model", artifact_id=artifact(platform.database, tenant_id))
    with platform.database.session() as session:
        return models.register(session, platform, tenant_id, request)


def job(database: Database, job_id: str) -> Job:
    """The job as it is now."""
    with database.session() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def model(database: Database, model_id: str) -> Model:
    """The model as it is now."""
    with database.session() as session:
        return session.scalars(select(Model).where(Model.id == model_id)).one()


def a_key(secret: str) -> OwnerKey:
    return OwnerKey(decode_secret(secret), ARCHITECTURE, 1000, LAYERS, ((0, 1),))


def finish_embedding(platform: Platform, model_id: str, secret: str, checkpoint: models.Checkpoint) -> OwnerKey:
    """Do what a worker does at the end of an embedding."""
    row, key = model(platform.database, model_id), a_key(secret)
    lease = Lease.take(platform.database, row.job_id, 60)
    assert lease
    with platform.database.session() as session:
        lease.succeed(session, f"/v1/models/{model_id}")
        models.mark_ready(session, platform.vault, row.tenant_id, model_id, key, checkpoint)
    return key


def finish_verification(platform: Platform, tenant_id: str, verification_id: str, job_id: str) -> Report:
    """Do what a worker does at the end of a verification."""
    lease = Lease.take(platform.database, job_id, 60)
    assert lease
    report = a_report()
    with platform.database.session() as session:
        verifications.record_report(session, tenant_id, verification_id, report)
        lease.succeed(session, f"/v1/verifications/{verification_id}")
    return report


def a_report() -> Report:
    """A match with 64 of 64 bits."""
    rate = Interval(value=1, low=0.9, high=1, draws=10)
    return Report(
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        software={"aiao": "0"},
        verdict="match",
        max_log10_p=-9,
        model_name="model",
        suspect_name="<script>alert(1)</script>",
        suspect_form="safetensors",
        commitment="sha256:" + "0" * 64,
        architecture=ARCHITECTURE.fingerprint,
        layers=(LayerResult(name="b", matches=64, bits=64),),
        trigger_layers=1,
        test=BitTest.of(64, 64, best_of=2),
        readings=Readings(plain=BitTest.of(64, 64), without_interference=BitTest.of(60, 64)),
        triggered_alone=BitTest.of(64, 64),
        untriggered=BitTest.of(30, 64),
        vs_rate=rate,
        rs_rate=rate,
        tau=0.75,
        decoys=(BitTest.of(31, 64, best_of=2),),
        subpaths=(),
        inputs=(),
        seed=0,
        draws=10,
    )


def finish_audit(platform: Platform, tenant_id: str, audit_id: str, job_id: str, *, ended: bool = False) -> AuditReport:
    """Do what a worker does at the end of an audit."""
    lease = Lease.take(platform.database, job_id, 60)
    assert lease
    report = an_audit_report(ended=ended)
    with platform.database.session() as session:
        for result in report.attacks:
            audits.record_result(session, tenant_id, audit_id, result)
        audits.record_report(session, tenant_id, audit_id, report)
        lease.succeed(session, f"/v1/audits/{audit_id}")
    return report


def an_audit_report(*, ended: bool = False) -> AuditReport:
    """Four attacks: the mark withstood one, one ruined the model, one was not possible, and another may have ended the mark."""

    def measured(matches: int, loss: float) -> Measured:
        test, rate = BitTest.of(matches, 64, best_of=2), Interval(value=1, low=0.9, high=1, draws=10)
        verdict = "match" if test.log10_p <= -9 else "no-match"
        return Measured(
            verdict=verdict,
            test=test,
            vs_rate=rate,
            rs_rate=rate,
            decoys=(BitTest.of(31, 64),),
            loss=loss,
            quality_loss=loss - 1,
        )

    attacks = (
        attack("quantisation-8", "withstood", measured(63, 1.001)),
        attack("lora-4-100", *(("ended", measured(40, 0.99)) if ended else ("withstood", measured(60, 0.99)))),
        attack("magnitude-pruning-70", "ruined", measured(33, 4.5)),
        attack("dreambooth", "no-model", None),
    )
    return AuditReport(
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        software={"aiao": "0"},
        model_name="<script>alert(1)</script>",
        commitment="sha256:" + "0" * 64,
        architecture=ARCHITECTURE.fingerprint,
        max_log10_p=-9,
        max_quality_loss=0.2,
        data="own-samples",
        attack_examples=12,
        held_out_examples=4,
        published=measured(64, 1),
        attacks=attacks,
        summary=Summary.of(attacks),
        inputs=(),
        tau=0.75,
        seed=0,
        draws=10,
    )


def attack(name: str, outcome: Outcome, measured: Measured | None) -> AttackResult:
    reason = None if measured else "this denoiser has no <attention>"
    return AttackResult(
        id=name, name=f"{name} at a strength", family="tests", outcome=outcome, measured=measured, reason=reason, seconds=1.5
    )
