"""A limit of the calls that a tenant may make, counted in Redis for all API processes together."""

import logging
import time
from math import ceil
from typing import Any

from limits import parse
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from service.kit.errors import TooManyRequests

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1


class RateLimiter:
    """A limit of calls by tenant, because an admin issues any number of tokens. ``rate`` is such as ``600/minute``."""

    def __init__(self, rate: str, redis_url: str) -> None:
        self.rate = parse(rate)
        timeouts: dict[str, Any] = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
        self.limiter = SlidingWindowCounterRateLimiter(RedisStorage(redis_url, key_prefix="aiao", **timeouts))

    def check(self, tenant_id: str) -> None:
        """Count a call. Raise :class:`TooManyRequests` beyond the rate."""
        try:
            if self.limiter.hit(self.rate, tenant_id):
                return
            reset_at = self.limiter.get_window_stats(self.rate, tenant_id).reset_time
        except RedisError as error:  # a service that is up must not go down with its counter
            logger.warning("calls are not limited: Redis does not answer: %s", error)
            return
        wait = max(1, ceil(reset_at - time.time()))
        detail = f"too many calls of your tenant (limit: {self.rate}); try again in {wait} s"
        raise TooManyRequests(detail, {"Retry-After": str(wait)})
