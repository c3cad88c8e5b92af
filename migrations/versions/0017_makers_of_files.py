"""Which token made an artifact or an upload, and indexes by which old answers and deliveries are pruned.

Files from before have no maker: a token with the scope `models:write` deletes them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

MADE_BY_A_TOKEN = ("artifacts", "uploads", "direct_uploads")


def upgrade() -> None:
    for table in MADE_BY_A_TOKEN:
        op.add_column(table, sa.Column("token_id", sa.Text()))  # no foreign key: SQLite would need the whole table rewritten
    op.create_index("ix_idempotency_records_created_at", "idempotency_records", ["created_at"])
    op.create_index("ix_webhook_deliveries_finished_at", "webhook_deliveries", ["finished_at"])


def downgrade() -> None:
    op.drop_index("ix_webhook_deliveries_finished_at", "webhook_deliveries")
    op.drop_index("ix_idempotency_records_created_at", "idempotency_records")
    for table in MADE_BY_A_TOKEN:
        op.drop_column(table, "token_id")
