"""Whose turn it is in each queue, the request that made a job, and until when an interrupted job waits.

Jobs from before have neither of the two.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("request_id", sa.Text()))
    op.add_column("jobs", sa.Column("waits_until", sa.DateTime(timezone=True)))
    op.create_table(
        "turns",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_turns_tenant_id_tenants"),
        sa.PrimaryKeyConstraint("queue", "tenant_id", name="pk_turns"),
    )


def downgrade() -> None:
    op.drop_table("turns")
    op.drop_column("jobs", "waits_until")
    op.drop_column("jobs", "request_id")
