"""Attacks on registered models, and what their watermarks withstand."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aiao._client.artifacts import Artifacts
from aiao._client.documents import Audit, AuditStart, read
from aiao._client.transport import TransferProgress, Transport


class Audits:
    """Attacks on registered models, and what their watermarks withstand."""

    def __init__(self, transport: Transport, artifacts: Artifacts) -> None:
        self._transport, self._artifacts = transport, artifacts

    def create(
        self,
        model_id: str,
        *,
        preset: str | None = None,
        attacks: Sequence[str] | None = None,
        images: str | Path | None = None,
        secret_key: str | None = None,
        options: dict[str, Any] | None = None,
        progress: TransferProgress | None = None,
    ) -> AuditStart:
        """Attack a registered model with a ``preset``, ``"quick"`` or ``"full"``, or with the ``attacks`` of these ids.

        The ids are :data:`aiao_core.audit_options.ATTACKS`. ``images`` is an image set for the attacks to train on, in place of
        the model's own samples; ``options`` are those of :class:`aiao_core.audit_options.AuditOptions`. ``secret_key`` is
        needed for a model in its owner's custody.
        """
        chosen = {"preset": preset, "attacks": attacks and list(attacks), "secret_key": secret_key, "options": options}
        body: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        if images is not None:
            body["images_artifact_id"] = self._artifacts.upload(images, progress=progress).id
        return read(AuditStart, self._transport.post(f"/v1/models/{model_id}/audits", json=body).content)

    def list(self, model_id: str) -> Iterator[Audit]:
        """Yield all audits of a model, newest first."""
        return self._transport.list(f"/v1/models/{model_id}/audits", Audit)

    def get(self, audit_id: str) -> Audit:
        """Return an audit as it is now: the attacks by their outcome, once its job has succeeded."""
        return read(Audit, self._transport.get(f"/v1/audits/{audit_id}").content)

    def report(self, audit_id: str) -> str:
        """Return the report as JSON text; read it with :meth:`aiao_core.reports.audit.AuditReport.from_json`."""
        return self._transport.get(f"/v1/audits/{audit_id}/report").text

    def report_html(self, audit_id: str) -> str:
        """Return the report as a self-contained page."""
        return self._transport.get(f"/v1/audits/{audit_id}/report", accept="text/html").text
