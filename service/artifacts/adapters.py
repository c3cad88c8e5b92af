"""Is an uploaded file of weights an adapter? By the names of its tensors, without torch."""

import struct

from obstore.exceptions import BaseError

from aiao_core.formats import adapter_names
from aiao_core.formats.identify import read_header
from service.kit.storage import Storage
from service.tables.artifacts import Artifact


def is_adapter(storage: Storage, artifact: Artifact) -> bool:
    """Return whether a safetensors file is an adapter.

    Of other files a worker finds it out, and of this one if the storage does not answer.
    """
    if artifact.kind != "safetensors":
        return False
    try:
        with storage.open(artifact.object_name) as file:
            header = read_header(file)
    except (OSError, BaseError, ValueError, struct.error):
        return False
    return adapter_names.is_adapter(name for name in header if name != "__metadata__")
