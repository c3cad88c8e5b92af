"""Tests of suspects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiao._client.artifacts import Artifacts, check_exists
from aiao._client.documents import Submission, Verification, read
from aiao._client.transport import TransferProgress, Transport
from aiao_core.formats.hub import is_reference, parse


class Verifications:
    """Tests of suspects."""

    def __init__(self, transport: Transport, artifacts: Artifacts) -> None:
        self._transport, self._artifacts = transport, artifacts

    def create(
        self,
        model_id: str,
        suspect: str | Path,
        *,
        base: str | Path | None = None,
        secret_key: str | None = None,
        options: dict[str, Any] | None = None,
        progress: TransferProgress | None = None,
    ) -> Submission:
        """Test a suspect against a registered model.

        ``suspect`` is uploaded: a pipeline folder, an archive, a .safetensors, pickle or GGUF file, or an adapter; or it is a
        model in a public repository of the Hugging Face hub, ``"hf://owner/name@revision/path"`` or the address of its page,
        which the service fetches. ``base`` is the model that an adapter was made for, and needed for an adapter alone. Of
        ``options``, those of :class:`aiao.VerificationOptions`, a service takes what its verdicts have, and a stricter limit
        from the key's owner or holder. ``secret_key`` is needed for a model in its owner's custody.

        Raises :class:`aiao.InvalidReference` for what is not a reference to the hub.
        """
        if base is not None:
            check_exists(Path(base))  # before a large suspect is uploaded
        body: dict[str, Any] = {"model_id": model_id}
        if is_reference(str(suspect)):
            body["hub"] = str(parse(str(suspect)))
        else:
            body["artifact_id"] = self._artifacts.upload(suspect, progress=progress).id
        if base is not None:
            body["base_artifact_id"] = self._artifacts.upload(base, progress=progress).id
        if options:
            body["options"] = options
        if secret_key is not None:
            body["secret_key"] = secret_key
        return read(Submission, self._transport.post("/v1/verifications", json=body).content)

    def list(self) -> Iterator[Verification]:
        """Yield all verifications, newest first."""
        return self._transport.list("/v1/verifications", Verification)

    def get(self, verification_id: str) -> Verification:
        """Return a verification as it is now: its verdict, once its job has succeeded."""
        return read(Verification, self._transport.get(f"/v1/verifications/{verification_id}").content)

    def report(self, verification_id: str) -> str:
        """Return the report as JSON text, or its summary for a caller who may not see figures.

        Read either with :func:`aiao_core.reports.summary.read_report`.
        """
        return self._transport.get(f"/v1/verifications/{verification_id}/report").text

    def report_html(self, verification_id: str) -> str:
        """Return the report, or its summary, as a self-contained page."""
        return self._transport.get(f"/v1/verifications/{verification_id}/report", accept="text/html").text
