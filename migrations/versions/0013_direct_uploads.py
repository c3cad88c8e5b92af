"""Direct uploads: files that clients send straight to the storage's bucket."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "direct_uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("part_bytes", sa.BigInteger(), nullable=False),
        sa.Column("multipart_id", sa.Text(), nullable=False),
        sa.Column("artifact_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_direct_uploads_tenant_id_tenants"),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.id"], name="fk_direct_uploads_artifact_id_artifacts"),
        sa.PrimaryKeyConstraint("id", name="pk_direct_uploads"),
    )
    op.create_index("ix_direct_uploads_tenant_id", "direct_uploads", ["tenant_id"], unique=False)
    op.create_index("ix_direct_uploads_expires_at", "direct_uploads", ["expires_at"], unique=False)


def downgrade() -> None:
    op.drop_table("direct_uploads")
