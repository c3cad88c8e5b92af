"""Registered models."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from aiao._client.artifacts import Artifacts, check_exists
from aiao._client.documents import KeyOpened, PublicKeyDocument, RegisteredModel, Registration, read
from aiao._client.errors import ClientError
from aiao._client.output_files import check_output, output
from aiao._client.stopping import check_stopped
from aiao._client.transport import CHUNK_BYTES, TransferProgress, Transport


class Models:
    """Registered models."""

    def __init__(self, transport: Transport, artifacts: Artifacts) -> None:
        self._transport, self._artifacts = transport, artifacts

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
        """Upload a pipeline folder, an archive of one or a single file, and start embedding a watermark in it.

        ``images`` is an optional image set to embed with; ``options`` are those of :class:`aiao.EmbeddingOptions`. The secret
        key of the answer is never shown again. With ``custody`` ``"owner"`` the service forgets it after the embedding, and
        each verification and audit must bring it.
        """
        if images is not None:
            check_exists(Path(images))  # before a large model is uploaded
        body: dict[str, Any] = {"name": name, "custody": custody}
        body["artifact_id"] = self._artifacts.upload(path, progress=progress).id
        if images is not None:
            body["images_artifact_id"] = self._artifacts.upload(images, progress=progress).id
        if options:
            body["options"] = options
        return read(Registration, self._transport.post("/v1/models", json=body).content)

    def renew(
        self,
        model_id: str,
        *,
        name: str | None = None,
        options: dict[str, Any] | None = None,
        custody: str | None = None,
    ) -> Registration:
        """Start embedding a new key in the source and images of a registered model, which the service still has.

        The answer is a new model, with a secret key that is never shown again. Name, options and custody are those of the
        registered model, but for what you give; ``options`` replace single ones. The registered model stays as it is: what was
        made from its checkpoint is found by its key alone.
        """
        given = {"name": name, "custody": custody, "options": self.get(model_id).options | options if options else None}
        body = {field: value for field, value in given.items() if value is not None}
        return read(Registration, self._transport.post(f"/v1/models/{model_id}/renewals", json=body).content)

    def list(self) -> Iterator[RegisteredModel]:
        """Yield all models, newest first."""
        return self._transport.list("/v1/models", RegisteredModel)

    def get(self, model_id: str) -> RegisteredModel:
        """Return a model as it is now."""
        return read(RegisteredModel, self._transport.get(f"/v1/models/{model_id}").content)

    def retire(self, model_id: str) -> None:
        """Take no more verifications against a model. Its key and reports are kept."""
        self._transport.delete(f"/v1/models/{model_id}")

    def public_key(self, model_id: str) -> dict[str, Any]:
        """Return the public part of the key, for :meth:`aiao_core.key.OwnerKey.from_public`."""
        document = read(PublicKeyDocument, self._transport.get(f"/v1/models/{model_id}/key").content)
        return document.model_dump(mode="json")

    def key_opened(self, model_id: str) -> KeyOpened:
        """Note that others have seen a model's key, as in a dispute: it takes no more tests. This cannot be undone.

        Earlier reports stand, and doing so twice changes nothing.
        """
        return read(KeyOpened, self._transport.post(f"/v1/models/{model_id}/key/opened").content)

    def download(
        self, model_id: str, target: str | Path, *, overwrite: bool = True, progress: TransferProgress | None = None
    ) -> Path:
        """Save the watermarked checkpoint, a diffusers pipeline folder as .zip, and check its SHA-256.

        Of a model that came as a single file the archive holds ``marked.safetensors`` too.

        Until all of it is there and right, it lies beside ``target`` under a name of its own. A key file is never overwritten,
        another file if ``overwrite``. Raises :class:`ClientError` for a damaged download, which leaves ``target`` as it was.
        """
        target = Path(target)
        check_output(target, force=overwrite)
        with self._transport.stream(f"/v1/models/{model_id}/checkpoint") as answer:
            expected = self.get(model_id).checkpoint
            if expected is None:  # never of an AIAO service, which has just answered with one
                raise ClientError(f"{model_id} has no checkpoint")
            done, digest = 0, sha256()
            with output(target, force=overwrite) as file:
                for chunk in answer.iter_bytes(CHUNK_BYTES):
                    check_stopped()
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    if progress:
                        progress(done, expected.size)
                if digest.hexdigest() != expected.sha256:
                    raise ClientError("the download was damaged on the way; try again")
        return target
