"""Which model a renewed one was made from, and the version of the key in each verification.

Verifications from before have none: their keys are of version 1 or 2.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

KEYS = sa.table("owner_keys", sa.column("public_key", sa.JSON()))


def upgrade() -> None:
    op.add_column("models", sa.Column("renews", sa.Text()))  # no foreign key: SQLite would need the whole table rewritten
    op.add_column("verifications", sa.Column("key_version", sa.Integer()))


def downgrade() -> None:
    newer = sa.select(sa.func.count()).select_from(KEYS).where(KEYS.c.public_key["version"].as_integer() > 2)
    if count := op.get_bind().execute(newer).scalar_one():
        raise RuntimeError(f"{count} models have keys of version 3, which the older service cannot read; keep this version")
    op.drop_column("verifications", "key_version")
    op.drop_column("models", "renews")
