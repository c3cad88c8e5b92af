"""How much memory a job needs, and the size of the denoiser in an archive, from which that is estimated.

Jobs from before have none: nobody can tell, and they go to the queue with the most memory.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("memory_bytes", sa.BigInteger()))
    op.add_column("artifacts", sa.Column("denoiser", sa.JSON()))


def downgrade() -> None:
    op.drop_column("artifacts", "denoiser")
    op.drop_column("jobs", "memory_bytes")
