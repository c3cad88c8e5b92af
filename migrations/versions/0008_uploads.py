"""Artifacts that share an object and can be deleted, quotas, and resumable uploads."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("artifacts", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_artifacts_tenant_id_sha256", "artifacts", ["tenant_id", "sha256"], unique=False)
    op.create_index("ix_artifacts_storage_key", "artifacts", ["storage_key"], unique=False)
    op.add_column("tenants", sa.Column("quota_bytes", sa.BigInteger(), nullable=True))
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("artifact_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_uploads_tenant_id_tenants"),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.id"], name="fk_uploads_artifact_id_artifacts"),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_tenant_id", "uploads", ["tenant_id"], unique=False)
    op.create_index("ix_uploads_expires_at", "uploads", ["expires_at"], unique=False)
    op.create_table(
        "upload_parts",
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name="fk_upload_parts_upload_id_uploads", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("upload_id", "start", name="pk_upload_parts"),
    )
    op.create_index("ix_upload_parts_storage_key", "upload_parts", ["storage_key"], unique=False)
    op.create_index("ix_models_checkpoint_key", "models", ["checkpoint_key"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_models_checkpoint_key", "models")
    op.drop_table("upload_parts")
    op.drop_table("uploads")
    op.drop_column("tenants", "quota_bytes")
    op.drop_index("ix_artifacts_storage_key", "artifacts")
    op.drop_index("ix_artifacts_tenant_id_sha256", "artifacts")
    # The older schema knows no deleted artifacts; their rows stay, for the reports that refer to them.
    op.drop_column("artifacts", "deleted_at")
