"""The parts that every process of the service opens from its settings: database, storage, vault, dispatcher."""

from dataclasses import dataclass
from typing import Self

from service.kit.bucket import Bucket
from service.kit.database import Database
from service.kit.dispatch import Dispatcher
from service.kit.kernel import hide_from_others
from service.kit.private_files import make_private
from service.kit.rate_limit import RateLimiter
from service.kit.storage import Storage
from service.settings import Settings
from service.vault.vault import Vault


@dataclass(frozen=True)
class Context:
    """The open parts of one process. Close it once, at the end."""

    settings: Settings
    database: Database
    storage: Storage
    bucket: Bucket | None
    """Where clients send large files, if they can."""
    vault: Vault
    dispatcher: Dispatcher
    rate_limiter: RateLimiter | None

    @classmethod
    def open(cls, settings: Settings) -> Self:
        hide_from_others()  # before there is a secret in its memory
        make_private(settings.data_dir)
        settings.scratch_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        storage = Storage(settings.storage_url, settings.credentials)
        return cls(
            settings=settings,
            database=Database(settings.database_url),
            storage=storage,
            bucket=Bucket.of(storage, settings.direct_upload_endpoint, settings.credentials),
            vault=Vault.open(
                settings.key_encryption_key, settings.former_key_encryption_keys, settings.data_dir, settings.credentials
            ),
            dispatcher=Dispatcher(settings.broker_url, settings.fleet),
            rate_limiter=RateLimiter(settings.rate_limit, settings.redis_url) if settings.rate_limit else None,
        )

    def close(self) -> None:
        self.database.dispose()
        self.dispatcher.close()
