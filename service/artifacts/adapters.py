"""Is an uploaded file of weights an adapter? By the names of its tensors, without torch."""

from functools import partial

from obstore.exceptions import BaseError

from service.artifacts.inspectors import INSPECTORS
from service.kit.storage import Storage
from service.tables.artifacts import Artifact


def is_adapter(storage: Storage, artifact: Artifact) -> bool:
    """Return whether a safetensors file is an adapter.

    Of other files a worker finds it out, and of this one if the storage does not answer, or every inspector is busy.
    """
    if artifact.kind != "safetensors":
        return False
    try:
        answer = INSPECTORS.ask_if_free("adapter", partial(storage.open, artifact.object_name), artifact.size)
    except (OSError, BaseError):
        return False
    return answer is not None and bool(answer["adapter"])
