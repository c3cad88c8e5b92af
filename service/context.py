"""What every process of the service opens from its settings: database, storage, vault and the dispatcher of the workers."""

from dataclasses import dataclass, field
from typing import Self

from service import tables
from service.kit.bucket import Bucket
from service.kit.database import Database
from service.kit.dispatch import Dispatcher
from service.kit.rate_limit import RateLimiter
from service.kit.storage import Storage
from service.settings import Settings
from service.tokens.service import RecentCallers
from service.vault.vault import Vault

__all__ = ["Context", "tables"]  # a mapper works only once every table it refers to is known


@dataclass(frozen=True)
class Context:
    settings: Settings
    database: Database
    storage: Storage
    bucket: Bucket | None
    """Where clients send large files, if they can."""
    vault: Vault
    dispatcher: Dispatcher
    rate_limiter: RateLimiter | None
    recent_callers: RecentCallers = field(default_factory=RecentCallers)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        settings.scratch_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        storage = Storage(settings.storage_url)
        return cls(
            settings=settings,
            database=Database(settings.database_url),
            storage=storage,
            bucket=Bucket.of(storage, settings.direct_upload_endpoint),
            vault=Vault.open(settings),
            dispatcher=Dispatcher(settings.broker_url, settings.fleet),
            rate_limiter=RateLimiter(settings.rate_limit, settings.redis_url) if settings.rate_limit else None,
        )

    def close(self) -> None:
        self.database.dispose()
        self.dispatcher.close()
