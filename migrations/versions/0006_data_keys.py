"""Data keys: owner keys lie under one each, which the key-encryption key seals."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("owner_keys") as table:
        table.add_column(sa.Column("data_key", sa.LargeBinary(), nullable=True))
    op.create_index("ix_owner_keys_key_encryption_key_id", "owner_keys", ["key_encryption_key_id"], unique=False)


def downgrade() -> None:
    sealed = op.get_bind().execute(sa.text("SELECT count(*) FROM owner_keys WHERE data_key IS NOT NULL")).scalar_one()
    if sealed:
        # Without the key-encryption key, which no migration has, they cannot be brought back: losing them is no way.
        raise RuntimeError(f"{sealed} owner keys lie under data keys, which the older service cannot open; restore a backup")
    op.drop_index("ix_owner_keys_key_encryption_key_id", "owner_keys")
    with op.batch_alter_table("owner_keys") as table:
        table.drop_column("data_key")
