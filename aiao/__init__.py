"""Python client of the AIAO ownership service.

from client import Client

with Client() as aiao:                                   # address and token from the file that `aiao up` wrote
    registration = aiao.models.register("emoji", name="emoji-v1")
    print(registration.secret_key)                       # shown this once
    registration.job.wait()
    aiao.models.download(registration.model.id, "emoji-marked.zip")

    submission = aiao.verifications.create(registration.model.id, "suspect.safetensors")
    submission.job.wait()
    print(aiao.verifications.get(submission.verification.id).verdict)

    start = aiao.audits.create(registration.model.id, preset="quick")
    start.job.wait()
    print(aiao.audits.get(start.audit.id).summary.ended_by)  # the attacks that the watermark does not withstand
"""

from aiao._client.api import Client
from aiao._client.documents import Artifact, Audit, AuditStart, Job, Model, Progress, Registration, Submission, Verification
from aiao._client.errors import ApiError, ClientError, JobCanceled, JobFailed

__all__ = [
    "ApiError",
    "Artifact",
    "Audit",
    "AuditStart",
    "Client",
    "ClientError",
    "Job",
    "JobCanceled",
    "JobFailed",
    "Model",
    "Progress",
    "Registration",
    "Submission",
    "Verification",
]
