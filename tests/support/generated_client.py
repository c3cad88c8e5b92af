"""A user's program with the client that openapi-python-client made of our document: ``generated_client.py URL TOKEN FILE``."""

import sys
from base64 import b64encode
from io import BytesIO
from pathlib import Path

from aiao_ownership_service_client import AuthenticatedClient
from aiao_ownership_service_client.api.artifacts import artifacts_list, artifacts_upload
from aiao_ownership_service_client.api.jobs import jobs_cancel, jobs_list, jobs_show
from aiao_ownership_service_client.api.models import models_checkpoint, models_list, models_register
from aiao_ownership_service_client.api.uploads import uploads_append, uploads_create
from aiao_ownership_service_client.api.verifications import verifications_submit
from aiao_ownership_service_client.models import ModelIn, Problem, VerificationIn
from aiao_ownership_service_client.models import UploadsAppendTusResumable as AppendTus
from aiao_ownership_service_client.models import UploadsCreateTusResumable as CreateTus
from aiao_ownership_service_client.types import File


def main(url: str, token: str, file: str) -> None:
    content = Path(file).read_bytes()
    with AuthenticatedClient(base_url=url, token=token, timeout=60) as client:
        artifact = artifacts_upload.sync(client=client, body=File(BytesIO(content)), filename=Path(file).name)
        assert artifact.kind == "archive"
        same = {artifact.id, resumed(client, content, Path(file).name)}
        assert {each.id for each in artifacts_list.sync(client=client, sha256=artifact.sha256).items} == same
        registered = models_register.sync(client=client, body=ModelIn(name="generated", artifact_id=artifact.id))
        assert registered.secret_key.startswith("aiao1")
        assert registered.job.id in [job.id for job in jobs_list.sync(client=client, state="queued").items]
        shown = jobs_show.sync_detailed(client=client, job_id=registered.job.id)
        assert shown.parsed == registered.job
        again = jobs_show.sync_detailed(client=client, job_id=registered.job.id, if_none_match=shown.headers["ETag"])
        assert (again.status_code, again.content) == (304, b"")
        early = VerificationIn(model_id=registered.model.id, artifact_id=artifact.id)
        for refused in (
            verifications_submit.sync(client=client, body=early),
            models_checkpoint.sync(client=client, model_id=registered.model.id),
        ):
            assert (refused.type_, refused.status) == ("conflict", 409)
        assert jobs_cancel.sync(client=client, job_id=registered.job.id).state == "canceled"
        assert registered.model.id in [model.id for model in models_list.sync(client=client, limit=200).items]
        nameless = models_register.sync(client=client, body=ModelIn(name="", artifact_id=artifact.id))
        assert isinstance(nameless, Problem)
        assert nameless.type_ == "invalid-request"


def resumed(client: AuthenticatedClient, content: bytes, name: str) -> str:
    """Upload in two halves by tus, and tell the artifact."""
    begun = uploads_create.sync_detailed(
        client=client,
        upload_length=len(content),
        upload_metadata=f"filename {b64encode(name.encode()).decode()}",
        tus_resumable=CreateTus.VALUE_0,
    )
    upload, middle = begun.headers["AIAO-Upload"], len(content) // 2
    for offset, half in ((0, content[:middle]), (middle, content[middle:])):
        sent = uploads_append.sync_detailed(
            upload,
            client=client,
            body=File(BytesIO(half)),
            upload_offset=offset,
            tus_resumable=AppendTus.VALUE_0,
        )
    return sent.headers["AIAO-Artifact"]


if __name__ == "__main__":
    main(*sys.argv[1:])
