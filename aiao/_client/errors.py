"""What can go wrong for a client, in words."""


class ClientError(Exception):
    """Base of the client's errors; ``str(error)`` may be shown to a user."""


class ApiError(ClientError):
    """The service refused a call. ``type`` is the stable slug of its problem document."""

    def __init__(self, status: int, type: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.type, self.detail = status, type, detail


class JobFailed(ClientError):
    """A job ended with an error. ``code`` is its stable slug."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class JobCanceled(ClientError):
    """A job was canceled."""
