"""The client: one connection to one service."""

from typing import Self

from aiao._client.artifacts import Artifacts
from aiao._client.audits import Audits
from aiao._client.config import load_config
from aiao._client.jobs import Jobs
from aiao._client.models import Models
from aiao._client.tokens import Tokens
from aiao._client.transport import Transport
from aiao._client.verifications import Verifications
from aiao._client.webhooks import Webhooks


class Client:
    """A client of the service. Close it, or use it in a ``with`` block. Threads may share it.

    Every method of its resources raises :class:`aiao.ApiError` if the service refuses, and its base :class:`aiao.ClientError`
    if nothing answers.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout: float = 60) -> None:
        """``url`` and ``token`` default to ``AIAO_URL`` and ``AIAO_TOKEN``, then to the file that ``aiao up`` wrote.

        ``timeout`` is in seconds, for each read or write. Raises :class:`aiao.ClientError` if no service is known, or address
        or token are malformed.
        """
        config = load_config(url=url, token=token)
        self.transport = Transport(config.url, config.token, timeout=timeout)
        """HTTP underneath, for calls that have no method here."""
        self.url = self.transport.url
        """Address of the service."""
        self.artifacts = Artifacts(self.transport)
        self.models = Models(self.transport, self.artifacts)
        self.verifications = Verifications(self.transport, self.artifacts)
        self.audits = Audits(self.transport, self.artifacts)
        self.jobs = Jobs(self.transport)
        self.tokens = Tokens(self.transport)
        self.webhooks = Webhooks(self.transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()
