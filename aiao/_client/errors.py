"""What can go wrong for a client, in words."""

from aiao_core.errors import AiaoError


class ClientError(AiaoError):
    """Base of the client's errors; ``str(error)`` may be shown to a user."""

    code = "client-error"


class ApiError(ClientError):
    """The service refused a call."""

    def __init__(self, status: int, type: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        """HTTP status."""
        self.type = type
        """Stable slug of the problem document, such as ``not-found``."""
        self.detail = detail
        """What failed and why, in a sentence of the service."""


class JobFailed(ClientError):
    """A job ended with an error."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        """Stable slug, such as ``invalid-checkpoint``."""
        self.detail = detail
        """What failed and why, in a sentence of the service."""


class JobCanceled(ClientError):
    """A job was canceled before its end."""


class Stopped(ClientError):
    """The task that awaited this call was canceled."""
