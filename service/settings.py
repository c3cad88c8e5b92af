"""Settings: environment variables with the prefix ``AIAO_``, or files of these names. The defaults are the embedded system."""

import os
from pathlib import Path
from typing import Literal, Self

import platformdirs
from limits import parse
from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from service.kit.credentials import Credentials, SecretFiles
from service.kit.queues import Fleet

SECRET_NAMES = {
    *("AIAO_DATABASE_URL", "AIAO_BROKER_URL", "AIAO_REDIS_URL", "AIAO_KEY_ENCRYPTION_KEY", "AIAO_FORMER_KEY_ENCRYPTION_KEYS"),
    *(name.upper() for name in Credentials.model_fields),
    # Of no use to the service: the client's, and those of the hub, from which only what is public is fetched.
    *("AIAO_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
}
"""Variables that no process of the service keeps in its environment."""


class Settings(BaseSettings):
    """The settings of the service's processes."""

    # An error must not repeat what was set: it may be a key.
    model_config = SettingsConfigDict(env_prefix="AIAO_", hide_input_in_errors=True, env_ignore_empty=True)

    secrets_dir: Path = Field(
        Path("/run/secrets"),
        description="Folder with a file for each secret, named like its variable, such as `AIAO_DATABASE_URL`. A variable that "
        "is set comes first.",
    )
    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("aiao"), description="Folder for the files of the embedded system."
    )
    database_url: str = Field("", repr=False, description="SQLAlchemy URL of the database. Empty: SQLite in the data folder.")
    broker_url: str = Field(
        "",
        repr=False,
        description="URL of the Celery broker, `redis://…` or `amqp://…`. Empty: the private Redis on a socket in the data "
        "folder.",
    )
    storage_url: str = Field(
        "", description="Store of the artifacts, as file://, s3://, gs:// or az:// URL. Empty: a folder in the data folder."
    )
    direct_upload_endpoint: str = Field(
        "",
        pattern=r"^(none|https?://[^/\s]+)?$",
        description="Where clients reach the S3 store, to send large files directly to it; `none`: they do not. Empty: where "
        "the service reaches it.",
    )
    key_encryption_key: SecretStr | None = Field(
        None,
        description="Key that encrypts the owners' keys: 32 bytes in base64, `file:PATH`, `aws-kms:KEY` or "
        "`vault-transit:KEY`. Absent: a file in the data folder, mode 0600.",
    )
    former_key_encryption_keys: SecretStr = Field(
        SecretStr(""),
        description="Further keys that can open owners' keys while the key-encryption key is changed, separated by spaces.",
    )
    max_upload_bytes: int = Field(16 << 30, ge=1, description="Maximum size of an artifact, in bytes.")
    max_unpacked_bytes: int = Field(64 << 30, ge=1, description="Maximum unpacked size of an uploaded archive, in bytes.")
    lease_seconds: float = Field(
        30, gt=0, description="Time without a heartbeat after which a running job counts as lost, in seconds."
    )
    heartbeat_seconds: float = Field(
        1, gt=0, description="Time between two heartbeats, in which a worker renews its lease and writes progress, in seconds."
    )
    reap_seconds: float = Field(
        5, gt=0, description="Time between two rounds of the reaper, which queues lost jobs again, in seconds."
    )
    max_unfinished_jobs: int = Field(1000, ge=0, description="Maximum number of unfinished jobs of one tenant; 0: no limit.")
    max_steps: int = Field(
        20_000,
        ge=0,
        description="Maximum number of training steps, of probe steps and of drawn samples of an embedding; 0: no limit.",
    )
    max_attempts: int = Field(5, ge=1, description="Maximum number of attempts at a job before it fails.")
    grace_seconds: float = Field(20, ge=0, description="Time that a worker which is told to stop gives its job, in seconds.")
    suspect_seconds: float = Field(1800, gt=0, description="Maximum time to read one suspect or registered model, in seconds.")
    suspect_memory_bytes: int = Field(
        0,
        ge=0,
        description="Maximum memory to read one suspect, model or image set, in bytes; 0: three quarters of the machine's or "
        "container's.",
    )
    allow_weak_confinement: bool = Field(
        False,
        description="Let a worker start where the kernel cannot confine the processes that read clients' files: only where "
        "every client is trusted.",
    )
    torch_threads: int = Field(0, ge=0, description="CPU threads of a worker; 0: one for each core.")
    queue: str = Field("aiao", description="Celery queue between the API and its workers.")
    queues: str = Field(
        "",
        description="Queues by the memory that a job needs, smallest first: `cpu:8GiB gpu:22GiB` makes `aiao.cpu` and "
        "`aiao.gpu`. Empty: one queue.",
    )
    job_seconds: float = Field(86_400, ge=0, description="Maximum time of one attempt at a job, in seconds; 0: no limit.")
    gpu: bool = Field(False, description="Require a GPU: a worker starts only if torch sees exactly one.")
    private_webhooks: bool = Field(False, description="Allow webhooks to private addresses and by http, for a closed network.")
    rate_limit: str = Field("", description="Maximum number of calls by one tenant, such as `600/minute`. Empty: no limit.")
    redis_url: str = Field(
        "", repr=False, description="URL of the Redis that counts calls. Empty: the broker, if that is a Redis."
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Port on which a worker serves Prometheus metrics; 0: none.")
    log_format: Literal["text", "json"] = Field("text", description="Format of the logs, `text` or `json`.")
    host: str = Field("127.0.0.1", description="Address on which `aiao up` listens.")
    port: int = Field(8377, ge=0, le=65535, description="Port on which `aiao up` listens.")

    _credentials: Credentials = PrivateAttr()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        named = (env_settings() | init_settings()).get("secrets_dir")
        return init_settings, env_settings, SecretFiles(settings_cls, _folder(named))

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        self._credentials = Credentials(
            _secrets_dir=_folder(self.secrets_dir if "secrets_dir" in self.model_fields_set else None)
        )
        self.data_dir = self.data_dir.expanduser().absolute()
        self.database_url = self.database_url or f"sqlite:///{self.data_dir / 'aiao.sqlite'}"
        self.broker_url = self.broker_url or f"redis+socket://{self.data_dir / 'redis.sock'}"
        self.storage_url = self.storage_url or (self.data_dir / "storage").as_uri()
        self.redis_url = self.redis_url or _as_redis(self.broker_url)
        if self.rate_limit and not self.redis_url:
            raise ValueError("AIAO_RATE_LIMIT needs a Redis, and the broker is not a Redis: name one in AIAO_REDIS_URL")
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
    def credentials(self) -> Credentials:
        """The secrets of stores, key services and collectors, read with the settings."""
        return self._credentials

    @property
    def fleet(self) -> Fleet:
        """The queues, and which jobs go where."""
        return Fleet.parse(self.queue, self.queues)

    @property
    def scratch_dir(self) -> Path:
        """Folder for files that live as long as one request or one attempt at a job."""
        return self.data_dir / "scratch"


class InvalidSettings(Exception):
    """A setting that cannot be used; the sentence names it."""


def read_settings() -> Settings:
    """Read the settings of this process, and take the secrets out of its environment, which everything inherits that it starts.

    Raises :class:`InvalidSettings`.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        # Of our own sentences, pydantic says first that they are errors.
        told = [(each["loc"], each["msg"].removeprefix("Value error, ")) for each in error.errors()]
        named = [("_".join(map(str, place)).upper(), why) for place, why in told]
        raise InvalidSettings("; ".join(f"AIAO_{name}: {why}" if name else why for name, why in named)) from error
    except SettingsError as error:
        raise InvalidSettings(str(error)) from error
    for name in [name for name in os.environ if name.upper() in SECRET_NAMES]:  # pydantic takes small letters too
        del os.environ[name]
    return settings


def _folder(named: str | Path | None) -> Path | None:
    """Return the folder of secrets; None if none is named and the usual one is not there."""
    usual: Path = Settings.model_fields["secrets_dir"].default
    return Path(named) if named else usual if usual.is_dir() else None


def _as_redis(broker_url: str) -> str:
    """Return the broker as a Redis URL, which names a socket differently from a Celery URL; empty for another broker."""
    if broker_url.startswith("redis+socket:"):
        return broker_url.replace("redis+socket:", "redis+unix:", 1)
    return broker_url if broker_url.startswith(("redis:", "rediss:")) else ""
