"""The client: one connection to one service."""

import uuid
from typing import Any, Self

import httpx

from aiao._client.artifacts import Artifacts
from aiao._client.config import load_config
from aiao._client.http import check, checked_token, checked_url, reachable
from aiao._client.resources import Audits, Jobs, Models, Verifications
from aiao._client.tokens import Tokens
from aiao._client.webhooks import Webhooks


class Client:
    """Synchronous client. Close it, or use it in a ``with`` block.

    ``url`` and ``token`` default to ``AIAO_URL`` and ``AIAO_TOKEN``, then to the file that ``aiao up`` wrote. Every method
    raises :class:`aiao._client.errors.ApiError` if the service refuses, and its base :class:`aiao._client.errors.ClientError`
    if nothing answers.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout: float = 60) -> None:
        config = load_config(url=url, token=token)
        self.url = checked_url(config.url)
        headers = {"Authorization": f"Bearer {checked_token(config.token)}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)
        self.artifacts = Artifacts(self)
        self.models = Models(self)
        self.verifications = Verifications(self)
        self.audits = Audits(self)
        self.jobs = Jobs(self)
        self.tokens = Tokens(self)
        self.webhooks = Webhooks(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def get(self, path: str, *, accept: str = "application/json", **params: str | int) -> httpx.Response:
        return self.send("GET", path, params=params, headers={"Accept": accept})

    def post(
        self,
        path: str,
        *,
        json: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> httpx.Response:
        """A POST with an Idempotency-Key, so that repeating it after a broken connection does nothing twice."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self.send("POST", path, json=json, headers=headers)

    def delete(self, path: str) -> None:
        self.send("DELETE", path)

    def send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """A request as httpx takes it. Raises :class:`aiao._client.errors.ClientError`."""
        with reachable(self.url):
            response = self.http.request(method, path, **arguments)
        check(response)
        return response
