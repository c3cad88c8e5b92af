"""What a client can name: models, verifications, audits, jobs."""

import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from aiao._client.artifacts import check_exists
from aiao._client.documents import (
    Audit,
    AuditStart,
    Job,
    KeyOpened,
    Model,
    PublicKeyDocument,
    Registration,
    Submission,
    Verification,
)
from aiao._client.errors import ClientError
from aiao._client.http import check, is_transient, reachable, read
from aiao._client.output_files import check_output, output
from aiao._client.resource import CHUNK_BYTES, RECONNECT_SECONDS, RECONNECT_TRIES, Resource, TransferProgress
from aiao_core.formats.hub import SCHEME


class Models(Resource):
    """Registered models."""

    def register(
        self,
        path: str | Path,
        *,
        name: str,
        images: str | Path | None = None,
        options: dict[str, Any] | None = None,
        custody: str = "service",
        progress: TransferProgress | None = None,
    ) -> Registration:
        """Upload a diffusers pipeline folder (or an archive of one) and start embedding a watermark in it.

        ``images`` is an optional image set to embed with; ``options`` are those of
        :class:`aiao_core.options.EmbeddingOptions`. The secret key of the answer is never shown again. With ``custody``
        ``"owner"`` the service forgets it after the embedding, and each verification and audit must bring it.
        """
        if images is not None:
            check_exists(Path(images))  # before a large model is uploaded
        body: dict[str, Any] = {"name": name, "custody": custody}
        body["artifact_id"] = self._client.artifacts.upload(path, progress=progress).id
        if images is not None:
            body["images_artifact_id"] = self._client.artifacts.upload(images, progress=progress).id
        if options:
            body["options"] = options
        registration = read(Registration, self._client.post("/v1/models", json=body).content)
        registration.job._jobs = self._client.jobs
        return registration

    def list(self) -> Iterator[Model]:
        """All models, newest first."""
        return self._list("/v1/models", Model)

    def get(self, model_id: str) -> Model:
        return read(Model, self._client.get(f"/v1/models/{model_id}").content)

    def retire(self, model_id: str) -> None:
        self._client.delete(f"/v1/models/{model_id}")

    def public_key(self, model_id: str) -> dict[str, Any]:
        """The public part of the key, for :meth:`aiao_core.key.OwnerKey.from_public`."""
        document = read(PublicKeyDocument, self._client.get(f"/v1/models/{model_id}/key").content)
        return document.model_dump(mode="json")

    def key_opened(self, model_id: str) -> KeyOpened:
        """Note that others have seen a model's key, as in a dispute: it takes no more tests. This cannot be undone.

        Reports of before stand, and doing so twice changes nothing.
        """
        return read(KeyOpened, self._client.post(f"/v1/models/{model_id}/key/opened").content)

    def download(
        self, model_id: str, target: str | Path, *, overwrite: bool = True, progress: TransferProgress | None = None
    ) -> Path:
        """Save the watermarked checkpoint, a diffusers pipeline folder as .zip, and check its SHA-256.

        Until all of it is there and right, it lies beside ``target`` under a name of its own. A key file is never overwritten.
        """
        target = Path(target)
        check_output(target, force=overwrite)
        with reachable(self._client.url), self._client.http.stream("GET", f"/v1/models/{model_id}/checkpoint") as answer:
            check(answer)
            expected = self.get(model_id).checkpoint
            if expected is None:  # never of an AIAO service, which has just answered with one
                raise ClientError(f"{model_id} has no checkpoint")
            done, digest = 0, sha256()
            with output(target, force=overwrite) as file:
                for chunk in answer.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    if progress:
                        progress(done, expected.size)
                if digest.hexdigest() != expected.sha256:
                    raise ClientError("the download was damaged on the way; try again")
        return target


class Verifications(Resource):
    """Tests of suspects."""

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
        public repository of the Hugging Face hub, ``"hf://owner/name@revision"``, which the service fetches. ``base`` is the
        model that an adapter was made for, and needed for an adapter alone. Of ``options``, those of
        :class:`aiao_core.options.VerificationOptions`, a service takes what its verdicts have, and a stricter limit from the
        key's owner or holder. ``secret_key`` is needed for a model in its owner's custody.
        """
        if base is not None:
            check_exists(Path(base))  # before a large suspect is uploaded
        body: dict[str, Any] = {"model_id": model_id}
        if str(suspect).startswith(SCHEME):
            body["hub"] = str(suspect)
        else:
            body["artifact_id"] = self._client.artifacts.upload(suspect, progress=progress).id
        if base is not None:
            body["base_artifact_id"] = self._client.artifacts.upload(base, progress=progress).id
        if options:
            body["options"] = options
        if secret_key is not None:
            body["secret_key"] = secret_key
        submission = read(Submission, self._client.post("/v1/verifications", json=body).content)
        submission.job._jobs = self._client.jobs
        return submission

    def list(self) -> Iterator[Verification]:
        """All verifications, newest first."""
        return self._list("/v1/verifications", Verification)

    def get(self, verification_id: str) -> Verification:
        return read(Verification, self._client.get(f"/v1/verifications/{verification_id}").content)

    def report(self, verification_id: str) -> str:
        """The report as JSON text, or its summary for a caller who may not see figures.

        Read either with :func:`aiao_core.reports.summary.read_report`.
        """
        return self._client.get(f"/v1/verifications/{verification_id}/report").text

    def report_html(self, verification_id: str) -> str:
        """The report, or its summary, as a self-contained page."""
        return self._client.get(f"/v1/verifications/{verification_id}/report", accept="text/html").text


class Audits(Resource):
    """Attacks on registered models, and what their watermarks withstand."""

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
            body["images_artifact_id"] = self._client.artifacts.upload(images, progress=progress).id
        start = read(AuditStart, self._client.post(f"/v1/models/{model_id}/audits", json=body).content)
        start.job._jobs = self._client.jobs
        return start

    def list(self, model_id: str) -> Iterator[Audit]:
        """All audits of a model, newest first."""
        return self._list(f"/v1/models/{model_id}/audits", Audit)

    def get(self, audit_id: str) -> Audit:
        return read(Audit, self._client.get(f"/v1/audits/{audit_id}").content)

    def report(self, audit_id: str) -> str:
        """The report as JSON text; read it with :meth:`aiao_core.reports.audit.AuditReport.from_json`."""
        return self._client.get(f"/v1/audits/{audit_id}/report").text

    def report_html(self, audit_id: str) -> str:
        """The report as a self-contained page."""
        return self._client.get(f"/v1/audits/{audit_id}/report", accept="text/html").text


class Jobs(Resource):
    """Embeddings, verifications and audits under way."""

    def list(self) -> Iterator[Job]:
        """All jobs, newest first."""
        return (self._with_client(job) for job in self._list("/v1/jobs", Job))

    def get(self, job_id: str) -> Job:
        return self._with_client(read(Job, self._client.get(f"/v1/jobs/{job_id}").content))

    def cancel(self, job_id: str) -> Job:
        return self._with_client(read(Job, self._client.post(f"/v1/jobs/{job_id}/cancel").content))

    def follow(self, job_id: str) -> Iterator[Job]:
        """Yield the job at every change until it has ended. A broken connection is taken up again."""
        tries = 0
        while True:
            try:
                for job in self._events(job_id):
                    tries = 0
                    yield job
                    if job.finished:
                        return
            except ClientError as error:
                tries += 1
                if tries > RECONNECT_TRIES or not is_transient(error):
                    raise
            time.sleep(RECONNECT_SECONDS)

    def _events(self, job_id: str) -> Iterator[Job]:
        with reachable(self._client.url), self._client.http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            check(answer)
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield self._with_client(read(Job, line.removeprefix("data:")))

    def _with_client(self, job: Job) -> Job:
        job._jobs = self
        return job
