"""Run the migrations, on the connection that the service hands over or on the one its settings name."""

from alembic import context

from service.kit.database import Base, Database
from service.settings import read_settings
from service.tables import Artifact  # every table is known once this module is imported

assert Artifact.metadata is Base.metadata  # noqa: S101


def run(connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    with Database(read_settings().database_url).engine.begin() as own:
        run(own)
