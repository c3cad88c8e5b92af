"""Tokens with names, scopes, an end and their last use."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # What an older token could do it still can: everything.
    with op.batch_alter_table("tokens") as table:
        table.add_column(sa.Column("name", sa.Text(), nullable=False, server_default="issued before tokens had names"))
        table.add_column(sa.Column("scopes", sa.JSON(), nullable=False, server_default='["admin"]'))
        table.add_column(sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("tokens") as table:
        table.alter_column("name", existing_type=sa.Text(), server_default=None)
        table.alter_column("scopes", existing_type=sa.JSON(), server_default=None)
    op.create_index("ix_tokens_tenant_id", "tokens", ["tenant_id"], unique=False)


def downgrade() -> None:
    # The older service knows no end of a token: what may no longer be used must go.
    op.execute("DELETE FROM tokens WHERE revoked_at IS NOT NULL OR expires_at IS NOT NULL")
    op.execute("DELETE FROM tokens WHERE CAST(scopes AS TEXT) NOT LIKE '%admin%'")  # nor scopes
    op.drop_index("ix_tokens_tenant_id", "tokens")
    with op.batch_alter_table("tokens") as table:
        for name in ("last_used_at", "revoked_at", "expires_at", "scopes", "name"):
            table.drop_column(name)
