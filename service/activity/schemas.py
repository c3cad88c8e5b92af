"""The activity log as the API shows it."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.kit.schemas import Schema

Action = Literal[
    "artifact.delete",
    "artifact.upload",
    "audit.start",
    "checkpoint.download",
    "job.cancel",
    "key.decrypt",
    "key.open",
    "model.register",
    "model.retire",
    "tenant.quota",
    "token.issue",
    "token.revoke",
    "upload.create",
    "verification.submit",
    "webhook.create",
    "webhook.delete",
]


class ActivityOut(Schema):
    """One act."""

    id: str = Field(examples=["act_01kaw3v0h9m6f0x2e7d8c9b1a5"])
    actor: str = Field(
        examples=["tok_01kaw3v0h9m6f0x2e7d8c9b1a5"],
        description="The token that made the call, the job for which a worker acted, or `operator`.",
    )
    action: Action
    subject_id: str = Field(examples=["mdl_01kaw3v0h9m6f0x2e7d8c9b1a5"], description="The thing it was done to.")
    created_at: datetime
