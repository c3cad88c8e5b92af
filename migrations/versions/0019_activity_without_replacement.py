"""On SQLite ``INSERT OR REPLACE`` exchanged a line of the activity log: it deletes without asking the trigger of deletions."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER activity_no_replace BEFORE INSERT ON activity "
            "WHEN EXISTS (SELECT 1 FROM activity WHERE id = NEW.id OR rowid = NEW.rowid) "
            "BEGIN SELECT RAISE(ABORT, 'the activity log is append-only'); END"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER activity_no_replace")
