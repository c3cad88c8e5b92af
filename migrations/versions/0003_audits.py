"""Audits of a model's watermark."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audits",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=True),
        sa.Column("attacks", sa.JSON(), nullable=True),
        sa.Column("images_artifact_id", sa.Text(), nullable=True),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("results", sa.JSON(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=True),
        sa.Column("report", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["images_artifact_id"], ["artifacts.id"], name="fk_audits_images_artifact_id_artifacts"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_audits_job_id_jobs"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_audits_model_id_models"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_audits_tenant_id_tenants"),
        sa.PrimaryKeyConstraint("id", name="pk_audits"),
    )
    op.create_index("ix_audits_model_id", "audits", ["model_id"], unique=False)
    op.create_index("ix_audits_tenant_id", "audits", ["tenant_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_audits_tenant_id", "audits")
    op.drop_index("ix_audits_model_id", "audits")
    op.drop_table("audits")
    op.execute("DELETE FROM jobs WHERE kind = 'audit'")  # the older service cannot show them
