"""An index for every list: of a tenant's things, newest first, also those of one state, model or content."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

FILTERS = {
    "artifacts": ("sha256",),
    "audits": ("model_id",),
    "jobs": ("state", "kind"),
    "models": ("status",),
    "verifications": ("model_id", "verdict"),
}


def upgrade() -> None:
    for table, columns in FILTERS.items():
        op.create_index(f"ix_{table}_tenant_id_id", table, ["tenant_id", "id"])
        for column in columns:
            op.create_index(f"ix_{table}_tenant_id_{column}_id", table, ["tenant_id", column, "id"])
        op.drop_index(f"ix_{table}_tenant_id", table)
    op.drop_index("ix_artifacts_tenant_id_sha256", "artifacts")


def downgrade() -> None:
    op.create_index("ix_artifacts_tenant_id_sha256", "artifacts", ["tenant_id", "sha256"])
    for table, columns in FILTERS.items():
        op.create_index(f"ix_{table}_tenant_id", table, ["tenant_id"])
        for column in columns:
            op.drop_index(f"ix_{table}_tenant_id_{column}_id", table)
        op.drop_index(f"ix_{table}_tenant_id_id", table)
