"""A client that openapi-python-client made of our document, against the running service.

    python -m venv other && other/bin/pip install openapi-python-client
    other/bin/openapi-python-client generate --path docs/openapi.json --output-path generated
    PYTHONPATH=generated other/bin/python tests/service/generated_client.py URL TOKEN FILE

By hand and not in `make test`: the generator needs an older Typer than ours.
"""

import sys
from io import BytesIO
from pathlib import Path

from aiao_ownership_service_client import AuthenticatedClient
from aiao_ownership_service_client.api.artifacts import list_artifacts_v1_artifacts_get as list_artifacts
from aiao_ownership_service_client.api.artifacts import upload_v1_artifacts_post as upload
from aiao_ownership_service_client.api.jobs import cancel_v1_jobs_job_id_cancel_post as cancel
from aiao_ownership_service_client.api.jobs import list_jobs_v1_jobs_get as list_jobs
from aiao_ownership_service_client.api.jobs import show_v1_jobs_job_id_get as show_job
from aiao_ownership_service_client.api.models import list_models_v1_models_get as list_models
from aiao_ownership_service_client.api.models import register_v1_models_post as register
from aiao_ownership_service_client.api.verifications import submit_v1_verifications_post as submit
from aiao_ownership_service_client.models import ModelIn, Problem, VerificationIn
from aiao_ownership_service_client.types import File


def main(url: str, token: str, file: str) -> None:
    with AuthenticatedClient(base_url=url, token=token, timeout=60) as client:
        artifact = upload.sync(client=client, body=File(BytesIO(Path(file).read_bytes())), filename=Path(file).name)
        assert artifact.kind == "archive"
        registered = register.sync(client=client, body=ModelIn(name="generated", artifact_id=artifact.id))
        assert registered.secret_key.startswith("aiao1")
        assert registered.job.id in [job.id for job in list_jobs.sync(client=client, state="queued").items]
        shown = show_job.sync_detailed(client=client, job_id=registered.job.id)
        assert shown.parsed == registered.job
        again = show_job.sync_detailed(client=client, job_id=registered.job.id, if_none_match=shown.headers["ETag"])
        assert (again.status_code, again.content) == (304, b"")
        too_early = submit.sync(client=client, body=VerificationIn(model_id=registered.model.id, artifact_id=artifact.id))
        assert (too_early.type_, too_early.status) == ("conflict", 409)
        assert cancel.sync(client=client, job_id=registered.job.id).state == "canceled"
        assert registered.model.id in [model.id for model in list_models.sync(client=client, limit=200).items]
        assert artifact.id in [each.id for each in list_artifacts.sync(client=client, sha256=artifact.sha256).items]
        refused = register.sync(client=client, body=ModelIn(name="", artifact_id=artifact.id))
        assert isinstance(refused, Problem)
        assert refused.type_ == "invalid-request"
    print("the generated client works")


if __name__ == "__main__":
    main(*sys.argv[1:])
