"""The settings of this worker, which the processes that run its tasks have from the one that forks them."""

from functools import cache

from service.settings import Settings, read_settings


@cache
def own_settings() -> Settings:
    """Read the settings at the first call: the secrets among them are not in the environment afterwards."""
    return read_settings()
