"""Queries for artifacts."""

from typing import Any

from sqlalchemy import func, or_, select, union_all

from service.kit.repository import TenantRepository
from service.tables.artifacts import Artifact
from service.tables.audits import Audit
from service.tables.direct_uploads import DirectUpload
from service.tables.jobs import Job
from service.tables.models import Model
from service.tables.uploads import Upload
from service.tables.verifications import Verification


class ArtifactRepository(TenantRepository[Artifact]):
    """One tenant's artifacts, without those that were deleted."""

    table, noun = Artifact, "artifact"

    def get_for_use(self, artifact_id: str) -> Artifact:
        """As :meth:`get`; nobody deletes the artifact before the transaction ends."""
        query = self._mine().where(Artifact.id == artifact_id).with_for_update(read=True)
        return self._found(artifact_id, self.session.scalar(query, execution_options={"populate_existing": True}))

    def stored(self, artifact_id: str) -> Artifact | None:
        """Return an artifact, or if it was deleted another with its content, as :meth:`get_for_use`; None if there is none."""
        content = select(Artifact.sha256).where(Artifact.tenant_id == self.tenant_id, Artifact.id == artifact_id)
        query = self._mine().where(Artifact.sha256 == content.scalar_subquery()).order_by(Artifact.id != artifact_id).limit(1)
        found: Artifact | None = self.session.scalar(
            query.with_for_update(read=True), execution_options={"populate_existing": True}
        )
        return found

    def with_content(self, sha256: str) -> Artifact | None:
        """One with this content."""
        artifact: Artifact | None = self.session.scalar(self._mine().where(Artifact.sha256 == sha256).limit(1))
        return artifact

    def shares_object(self, artifact: Artifact) -> bool:
        """Whether another artifact is stored in the same object."""
        query = self._mine().where(Artifact.object_name == artifact.object_name, Artifact.id != artifact.id).limit(1)
        return self.session.scalar(query) is not None

    def user_of(self, artifact_id: str) -> str | None:
        """A model that can be verified against, or a job under way, that needs the artifact."""
        unfinished = Job.state.in_(("queued", "running"))
        of_model = or_(Model.artifact_id == artifact_id, Model.images_artifact_id == artifact_id)
        questions = [
            select(Model.id).where(of_model, Model.status.in_(("embedding", "ready"))),
            select(Job.id)
            .join(Verification, Verification.job_id == Job.id)
            .where(or_(Verification.artifact_id == artifact_id, Verification.base_artifact_id == artifact_id), unfinished),
            select(Job.id).join(Audit, Audit.job_id == Job.id).where(Audit.images_artifact_id == artifact_id, unfinished),
            # A model may have been retired while its jobs run.
            select(Job.id).join(Model, Model.job_id == Job.id).where(of_model, unfinished),
            *(
                select(Job.id)
                .join(table, table.job_id == Job.id)
                .join(Model, Model.id == table.model_id)
                .where(of_model, unfinished)
                for table in (Verification, Audit)
            ),
        ]
        return next((user for question in questions if (user := self.session.scalar(question.limit(1)))), None)

    def bytes_used(self) -> int:
        """Bytes of the tenant's uploads: each object once, and what uploads under way have announced.

        Of those that announce a content that is stored already, one for each content takes nothing.
        """
        sizes = self._mine().with_only_columns(func.max(Artifact.size).label("size"))
        stored = sizes.group_by(Artifact.object_name).subquery()
        under_way = self._under_way()
        twin = self._mine().where(Artifact.sha256 == under_way.c.sha256, Artifact.size == under_way.c.size)
        again = select(under_way.c.sha256, under_way.c.size).where(twin.exists()).distinct().subquery()
        sums = (self.session.scalar(select(func.sum(each.c.size))) for each in (stored, under_way, again))
        kept, announced, nothing = (int(each or 0) for each in sums)
        return kept + announced - nothing

    def takes_nothing(self, sha256: str, size: int) -> bool:
        """Whether an upload of this content would: it is stored, and no other upload under way announces it.

        More than one at a time could hold as many bytes each, of whatever content.
        """
        stored = self._mine().with_only_columns(Artifact.id).where(Artifact.sha256 == sha256, Artifact.size == size)
        under_way = self._under_way()
        announced = select(under_way.c.size).where(under_way.c.sha256 == sha256, under_way.c.size == size)
        return bool(self.session.scalar(select(stored.exists() & ~announced.exists())))

    def _under_way(self) -> Any:
        """Digest and size that uploads which are no artifacts yet announce."""
        tables = ((Upload, Upload.length), (DirectUpload, DirectUpload.size))
        return union_all(
            *(
                select(table.sha256.label("sha256"), size.label("size")).where(
                    table.tenant_id == self.tenant_id, table.artifact_id.is_(None)
                )
                for table, size in tables
            )
        ).subquery()

    def _mine(self) -> Any:
        return super()._mine().where(Artifact.deleted_at.is_(None))
