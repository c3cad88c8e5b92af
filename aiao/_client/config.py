"""Where the service is, and which token to use."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from aiao._client.errors import ClientError


@dataclass(frozen=True)
class Config:
    """Address and bearer token of a service."""

    url: str
    token: str


def config_file() -> Path:
    """Return the path of the file that ``aiao up`` writes; ``AIAO_CONFIG_FILE`` names another one."""
    return Path(os.environ.get("AIAO_CONFIG_FILE") or platformdirs.user_config_path("aiao") / "config.toml")


def load_config(file: Path | None = None, *, url: str | None = None, token: str | None = None) -> Config:
    """Read ``file``; without it take the arguments, then ``AIAO_URL`` and ``AIAO_TOKEN``, then the file of :func:`config_file`.

    Raises :class:`ClientError` if none of these names a service.
    """
    if file is not None:
        return _read(file)
    url, token = url or os.environ.get("AIAO_URL"), token or os.environ.get("AIAO_TOKEN")
    if url and token:
        return Config(url, token)
    config = _read(config_file())
    if url and url.rstrip("/") != config.url.rstrip("/"):  # a token goes to the service that issued it and to no other
        raise ClientError(f"{url} is another service than the one of {config_file()}; set AIAO_TOKEN to a token of it")
    return Config(url or config.url, token or config.token)


def _read(file: Path) -> Config:
    try:
        values = tomllib.loads(file.read_text())
        return Config(str(values["url"]), str(values["token"]))
    except FileNotFoundError as error:
        raise ClientError(
            "no service is known: start one with `aiao up`, or set AIAO_URL and AIAO_TOKEN to use another one"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise ClientError(f"{file} cannot be read ({error}); remove it and start `aiao up` again") from error
