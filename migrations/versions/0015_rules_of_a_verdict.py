"""What the rules of a verdict need: who submitted a suspect, how often a key and a file were tested, and a key's controls.

Verifications from before have no digest of their weights and no number. They count as tests with their key all the same.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

COLUMNS = (
    ("token_id", sa.Text()),
    ("suspect_weights", sa.Text()),
    ("with_key", sa.Integer()),
    ("of_file", sa.Integer()),
    ("reason", sa.Text()),
    ("tested", sa.Text()),
    ("base_name", sa.Text()),
)
INDEX = "ix_verifications_tenant_id_suspect_weights"


def upgrade() -> None:
    for name, kind in COLUMNS:
        op.add_column("verifications", sa.Column(name, kind))
    op.add_column("verifications", sa.Column("with_secret", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index(INDEX, "verifications", ["tenant_id", "suspect_weights"])
    op.add_column("owner_keys", sa.Column("panel", sa.JSON()))
    op.add_column("owner_keys", sa.Column("opened_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    # The older service tests with every key of a model that is ready, so a key that was opened must not stay with one.
    op.execute(
        "UPDATE models SET status = 'retired' WHERE status != 'failed' AND id IN "
        "(SELECT model_id FROM owner_keys WHERE opened_at IS NOT NULL)"
    )
    # It has no word for the other verdicts. Their reports stay, for disputes.
    op.execute("UPDATE verifications SET verdict = NULL WHERE verdict NOT IN ('match', 'no-match')")
    op.drop_column("owner_keys", "opened_at")
    op.drop_column("owner_keys", "panel")
    op.drop_index(INDEX, "verifications")
    op.drop_column("verifications", "with_secret")
    for name, _ in reversed(COLUMNS):
        op.drop_column("verifications", name)
