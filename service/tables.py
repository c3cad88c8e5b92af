"""Every table, imported in one place so that migrations see them all."""

from service.activity.tables import Activity
from service.artifacts.tables import Artifact
from service.audits.tables import Audit
from service.direct_uploads.tables import DirectUpload
from service.jobs.tables import IdempotencyRecord, Job
from service.keys.tables import LentSecret, StoredKey
from service.models.tables import Model
from service.tokens.tables import Tenant, Token
from service.uploads.tables import Upload, UploadPart
from service.verifications.tables import Verification
from service.webhooks.tables import Delivery, Webhook

__all__ = [
    "Activity", "Artifact", "Audit", "Delivery", "DirectUpload", "IdempotencyRecord", "Job", "LentSecret", "Model",
    "StoredKey", "Tenant", "Token", "Upload", "UploadPart", "Verification", "Webhook",
]  # fmt: skip
