"""Ownership of diffusion models: embed a secret watermark, and prove later which checkpoints were made from the marked model.

As a library (needs ``pip install 'aiao[torch]'``)::

    import aiao

    model = aiao.load("my-pipeline/")
    key = aiao.embed(model, images="photos/")
    model.save("marked/")  # publish this one
    key.save("my.key.json")  # keep this one secret

    report = aiao.verify("suspect.safetensors", key, source="my-pipeline/")
    print(report.verdict, report.log10_p)
    report.save("report.html")

As a client of the service, whose address and token are in the file that ``aiao up`` wrote::

    import aiao

    with aiao.Client() as client:
        registration = client.models.register("my-pipeline/", name="mine")
        print(registration.secret_key)  # shown this once
        client.jobs.wait(registration)
        client.models.download(registration.model.id, "marked.zip")

        submission = client.verifications.create(registration.model.id, "suspect.safetensors")
        client.jobs.wait(submission)
        print(client.verifications.get(submission.verification.id).verdict)

        start = client.audits.create(registration.model.id, preset="quick")
        client.jobs.wait(start)
        print(client.audits.get(start.audit.id).summary.ended_by)  # the attacks that the watermark does not withstand

Every name is loaded when it is first used: importing the package takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers and editors; a test compares
    from aiao._client.api import Client as Client
    from aiao._client.async_api import AsyncClient as AsyncClient
    from aiao._client.documents import Artifact as Artifact
    from aiao._client.documents import Audit as Audit
    from aiao._client.documents import AuditStart as AuditStart
    from aiao._client.documents import AuditSummary as AuditSummary
    from aiao._client.documents import Checkpoint as Checkpoint
    from aiao._client.documents import Delivery as Delivery
    from aiao._client.documents import Failure as Failure
    from aiao._client.documents import Job as Job
    from aiao._client.documents import JobProgress as JobProgress
    from aiao._client.documents import KeyOpened as KeyOpened
    from aiao._client.documents import RegisteredModel as RegisteredModel
    from aiao._client.documents import Registration as Registration
    from aiao._client.documents import Submission as Submission
    from aiao._client.documents import Token as Token
    from aiao._client.documents import TokenIssued as TokenIssued
    from aiao._client.documents import Verification as Verification
    from aiao._client.documents import Webhook as Webhook
    from aiao._client.documents import WebhookCreated as WebhookCreated
    from aiao._client.errors import ApiError as ApiError
    from aiao._client.errors import ClientError as ClientError
    from aiao._client.errors import JobCanceled as JobCanceled
    from aiao._client.errors import JobFailed as JobFailed
    from aiao._library import Key as Key
    from aiao._library import Model as Model
    from aiao._library import Report as Report
    from aiao._library import embed as embed
    from aiao._library import load as load
    from aiao._library import load_key as load_key
    from aiao._library import verify as verify
    from aiao_core import __version__ as __version__
    from aiao_core.errors import AdapterWithoutBase as AdapterWithoutBase
    from aiao_core.errors import AiaoError as AiaoError
    from aiao_core.errors import Canceled as Canceled
    from aiao_core.errors import EmbeddingFailed as EmbeddingFailed
    from aiao_core.errors import HubUnavailable as HubUnavailable
    from aiao_core.errors import InvalidCheckpoint as InvalidCheckpoint
    from aiao_core.errors import InvalidImages as InvalidImages
    from aiao_core.errors import InvalidKey as InvalidKey
    from aiao_core.errors import InvalidReference as InvalidReference
    from aiao_core.errors import InvalidReport as InvalidReport
    from aiao_core.errors import MissingDependency as MissingDependency
    from aiao_core.errors import TracingError as TracingError
    from aiao_core.errors import UnsafeArchive as UnsafeArchive
    from aiao_core.errors import WrongArchitecture as WrongArchitecture
    from aiao_core.options import EmbeddingOptions as EmbeddingOptions
    from aiao_core.options import VerificationOptions as VerificationOptions
    from aiao_core.progress import Progress as Progress

_HOMES = {
    "aiao._client.api": "Client",
    "aiao._client.async_api": "AsyncClient",
    "aiao._client.documents": (
        "Artifact Audit AuditStart AuditSummary Checkpoint Delivery Failure Job JobProgress KeyOpened "
        "RegisteredModel Registration Submission Token TokenIssued Verification Webhook WebhookCreated"
    ),
    "aiao._client.errors": "ApiError ClientError JobCanceled JobFailed",
    "aiao._library": "Key Model Report embed load load_key verify",
    "aiao_core": "__version__",
    "aiao_core.errors": (
        "AdapterWithoutBase AiaoError Canceled EmbeddingFailed HubUnavailable InvalidCheckpoint InvalidImages "
        "InvalidKey InvalidReference InvalidReport MissingDependency TracingError UnsafeArchive "
        "WrongArchitecture"
    ),
    "aiao_core.options": "EmbeddingOptions VerificationOptions",
    "aiao_core.progress": "Progress",
}
"""The public names, by the modules that define them."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [*_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'aiao' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
