"""Is an uploaded file of weights an adapter? By the names of its tensors, without torch."""

import json
import struct

from obstore.exceptions import BaseError

from aiao_core.formats.adapter_names import is_adapter as are_an_adapters
from service.artifacts.kinds import MAX_HEADER_BYTES
from service.kit.storage import Storage
from service.tables.artifacts import Artifact


def is_adapter(storage: Storage, artifact: Artifact) -> bool:
    """Whether a safetensors file is an adapter. Of other files a worker says it, and of this one if the storage is away."""
    if artifact.kind != "safetensors":
        return False
    try:
        with storage.open(artifact.object_name) as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
    except (OSError, BaseError, ValueError, struct.error):
        return False
    return are_an_adapters(name for name in header if name != "__metadata__")
