"""Every table, imported in one place so that migrations see them all."""

from service.tables.activity import Activity
from service.tables.artifacts import Artifact
from service.tables.audits import Audit
from service.tables.direct_uploads import DirectUpload
from service.tables.idempotency import IdempotencyRecord
from service.tables.jobs import Job
from service.tables.keys import LentSecret, StoredKey
from service.tables.models import Model
from service.tables.tokens import Tenant, Token
from service.tables.turns import Turn
from service.tables.uploads import Upload, UploadPart
from service.tables.verifications import Verification
from service.tables.webhooks import Delivery, Webhook

__all__ = [
    "Activity", "Artifact", "Audit", "Delivery", "DirectUpload", "IdempotencyRecord", "Job", "LentSecret", "Model",
    "StoredKey", "Tenant", "Token", "Turn", "Upload", "UploadPart", "Verification", "Webhook",
]  # fmt: skip
