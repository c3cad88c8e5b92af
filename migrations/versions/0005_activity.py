"""The activity log, to which rows can only be added."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "activity",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_activity_tenant_id_tenants"),
        sa.PrimaryKeyConstraint("id", name="pk_activity"),
    )
    op.create_index("ix_activity_tenant_id_id", "activity", ["tenant_id", "id"], unique=False)
    op.create_index("ix_activity_tenant_id_subject_id_id", "activity", ["tenant_id", "subject_id", "id"], unique=False)
    if op.get_bind().dialect.name == "sqlite":
        for act in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER activity_no_{act.lower()} BEFORE {act} ON activity "
                "BEGIN SELECT RAISE(ABORT, 'the activity log is append-only'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION activity_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the activity log is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER activity_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON activity "
            "FOR EACH STATEMENT EXECUTE FUNCTION activity_is_append_only()"
        )


def downgrade() -> None:
    op.drop_table("activity")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION activity_is_append_only()")
