"""Keys that their owners hold: a job borrows the secret, and the service keeps the public part alone."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("custody", sa.Text(), nullable=False, server_default="service"))
    with op.batch_alter_table("owner_keys") as table:
        table.alter_column("ciphertext", existing_type=sa.LargeBinary(), nullable=True)
        table.alter_column("key_encryption_key_id", existing_type=sa.Text(), nullable=True)
    op.create_table(
        "lent_secrets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("data_key", sa.LargeBinary(), nullable=True),
        sa.Column("key_encryption_key_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name="fk_lent_secrets_id_jobs"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_lent_secrets_tenant_id_tenants"),
        sa.PrimaryKeyConstraint("id", name="pk_lent_secrets"),
    )
    op.create_index("ix_lent_secrets_key_encryption_key_id", "lent_secrets", ["key_encryption_key_id"], unique=False)


def downgrade() -> None:
    held = op.get_bind().execute(sa.text("SELECT count(*) FROM models WHERE custody = 'owner'")).scalar_one()
    if held:
        raise RuntimeError(f"{held} models have keys that their owners hold, which the older schema cannot; keep this version")
    op.drop_table("lent_secrets")
    with op.batch_alter_table("owner_keys") as table:
        table.alter_column("key_encryption_key_id", existing_type=sa.Text(), nullable=False)
        table.alter_column("ciphertext", existing_type=sa.LargeBinary(), nullable=False)
    op.drop_column("models", "custody")
