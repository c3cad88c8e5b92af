"""Suspects on the hub, which have no artifact and no digest yet, and the base of an adapter."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BASE = "fk_verifications_base_artifact_id_artifacts"


def upgrade() -> None:
    with op.batch_alter_table("verifications") as table:
        table.alter_column("artifact_id", existing_type=sa.Text(), nullable=True)
        table.alter_column("suspect_sha256", existing_type=sa.Text(), nullable=True)
        table.add_column(sa.Column("hub", sa.Text(), nullable=True))
        table.add_column(sa.Column("base_artifact_id", sa.Text(), nullable=True))
        table.create_foreign_key(BASE, "artifacts", ["base_artifact_id"], ["id"])


def downgrade() -> None:
    op.execute("DELETE FROM verifications WHERE artifact_id IS NULL")  # the older schema cannot hold them
    with op.batch_alter_table("verifications") as table:
        table.drop_constraint(BASE, type_="foreignkey")
        table.drop_column("base_artifact_id")
        table.drop_column("hub")
        table.alter_column("suspect_sha256", existing_type=sa.Text(), nullable=False)
        table.alter_column("artifact_id", existing_type=sa.Text(), nullable=False)
