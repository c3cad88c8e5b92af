"""Settings, each an environment variable with the prefix ``AIAO_``. The defaults are the embedded system."""

from pathlib import Path
from typing import Literal, Self

import platformdirs
from limits import parse
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.kit.queues import Fleet


class Settings(BaseSettings):
    """Where things are and how patient the service is."""

    # An error must not repeat what was set: it may be a key.
    model_config = SettingsConfigDict(env_prefix="AIAO_", hide_input_in_errors=True)

    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("aiao"), description="Folder of the embedded system's files."
    )
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in the data folder.")
    broker_url: str = Field("", description="Celery broker; empty: the private Redis on a socket in the data folder.")
    storage_url: str = Field("", description="Artifacts, as file://, s3://, gs:// or az:// URL; empty: in the data folder.")
    direct_upload_endpoint: str = Field(
        "",
        pattern=r"^(none|https?://[^/\s]+)?$",
        description="Where clients reach the S3 store, to send large files straight to it; empty: where the service does; "
        "none: they do not.",
    )
    key_encryption_key: SecretStr | None = Field(
        None,
        description="Encrypts the owners' keys: 32 bytes in base64, file:PATH, aws-kms:KEY or vault-transit:KEY; absent: a "
        "file in the data folder, mode 0600.",
    )
    former_key_encryption_keys: SecretStr = Field(
        SecretStr(""), description="Others under which owners' keys still lie, or soon will, with spaces between."
    )
    max_upload_bytes: int = Field(16 << 30, ge=1, description="Largest artifact.")
    max_unpacked_bytes: int = Field(64 << 30, ge=1, description="To how much an uploaded archive may expand.")
    lease_seconds: float = Field(30, gt=0, description="How long a running job outlives the last sign of its worker.")
    heartbeat_seconds: float = Field(1, gt=0, description="How often a worker renews its lease and writes progress.")
    reap_seconds: float = Field(5, gt=0, description="How often the reaper looks for lost and forgotten jobs.")
    max_attempts: int = Field(5, ge=1, description="How often a job is started before it counts as failed.")
    grace_seconds: float = Field(20, ge=0, description="How long a worker that is told to stop lets its job go on.")
    suspect_seconds: float = Field(1800, gt=0, description="How long a worker's child may read one suspect.")
    suspect_memory_bytes: int = Field(
        0, ge=0, description="How much memory it may take; 0: three quarters of the machine's or container's."
    )
    torch_threads: int = Field(0, ge=0, description="CPU threads of a worker; 0: one for each core.")
    queue: str = Field("aiao", description="Celery queue between the API and its workers.")
    queues: str = Field(
        "",
        description="Instead of that one, queues by the memory that a job needs, the smallest first, such as "
        "`cpu:8GiB gpu:22GiB`: then `aiao.cpu` and `aiao.gpu`; empty: one queue.",
    )
    job_seconds: float = Field(0, ge=0, description="How long one attempt at a job may take; 0: as long as it does.")
    gpu: bool = Field(False, description="Whether a worker must have a GPU: it starts only where torch sees one, and no other.")
    private_webhooks: bool = Field(
        False, description="Whether webhooks may be private addresses, and http: for a closed network."
    )
    rate_limit: str = Field("", description="Calls that one token may make, such as `600/minute`; empty: no limit.")
    redis_url: str = Field("", description="Redis that counts calls; empty: the broker, if that is one.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Where a worker answers Prometheus; 0: nowhere.")
    log_format: Literal["text", "json"] = Field("text", description="How the processes write their logs.")
    host: str = "127.0.0.1"
    port: int = Field(8377, ge=0, le=65535)

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        self.data_dir = self.data_dir.expanduser().absolute()
        self.database_url = self.database_url or f"sqlite:///{self.data_dir / 'aiao.sqlite'}"
        self.broker_url = self.broker_url or f"redis+socket://{self.data_dir / 'redis.sock'}"
        self.storage_url = self.storage_url or (self.data_dir / "storage").as_uri()
        self.redis_url = self.redis_url or _as_redis(self.broker_url)
        if self.rate_limit and not self.redis_url:
            raise ValueError("AIAO_RATE_LIMIT needs a Redis, and the broker is none; name one by AIAO_REDIS_URL")
        return self

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, text: str) -> str:
        if text:
            parse(text)  # raises ValueError
        return text

    @field_validator("queues")
    @classmethod
    def _are_queues(cls, text: str) -> str:
        Fleet.parse("", text)  # raises ValueError
        return text

    @property
    def fleet(self) -> Fleet:
        """The queues, and which jobs go where."""
        return Fleet.parse(self.queue, self.queues)

    @property
    def scratch_dir(self) -> Path:
        """For files that live as long as one request or one attempt of a job."""
        return self.data_dir / "scratch"


class InvalidSettings(Exception):
    """A setting cannot be used; the sentence names it."""


def read_settings() -> Settings:
    """The settings of the environment. Raises :class:`InvalidSettings`."""
    try:
        return Settings()
    except ValidationError as error:
        # Of our own sentences, pydantic says first that they are errors.
        told = [(each["loc"], each["msg"].removeprefix("Value error, ")) for each in error.errors()]
        named = [("_".join(map(str, place)).upper(), why) for place, why in told]
        raise InvalidSettings("; ".join(f"AIAO_{name}: {why}" if name else why for name, why in named)) from error


def _as_redis(broker_url: str) -> str:
    """The broker as a Redis URL, which names a socket otherwise than a Celery URL; empty for another broker."""
    if broker_url.startswith("redis+socket:"):
        return broker_url.replace("redis+socket:", "redis+unix:", 1)
    return broker_url if broker_url.startswith(("redis:", "rediss:")) else ""
