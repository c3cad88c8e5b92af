"""What a worker would hear: the messages that wait in the broker."""

import base64
import json

import redis


def rings(broker_url: str, queue: str) -> list[tuple[str, str]]:
    """Task and job of every message in the queue, oldest first."""
    with redis.Redis.from_url(broker_url) as broker:
        messages = [json.loads(message) for message in reversed(broker.lrange(queue, 0, -1))]
    return [(message["headers"]["task"], json.loads(base64.b64decode(message["body"]))[0][0]) for message in messages]
