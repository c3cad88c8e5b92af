"""What a safetensors file holds, from the names of its tensors, which stand at its beginning. Torch-free.

Read before the download, because file names cannot tell a VAE from a denoiser. An attacker may have made the file.
"""

import json
import re
from collections.abc import Collection, Iterable

from aiao_core.formats import names
from aiao_core.formats.adapter_names import is_adapter, is_beside_denoiser
from aiao_core.formats.identify import MAX_TENSORS
from aiao_core.formats.names import MAX_NAME_CHARACTERS

MAX_HEADER_BYTES = 4 << 20
"""Most bytes of a header that is read before the download: four times what the largest quantized models have."""

_EMBEDDING = re.compile(r"clip_[lg]|t5|emb_params|string_to_param\..+|<.+>")
"""The tensors of a textual inversion, as trainers write it beside their LoRA."""

_LANGUAGE = {"embed_tokens", "lm_head"}
"""What language models have, which newer pipelines use as text encoders, and no denoiser."""


def read_tensor_names(chunks: Iterable[bytes]) -> list[str] | None:
    """Read the tensors' names from the beginning of a file, taking no more chunks than needed; None if it has no such names."""
    start, length = bytearray(), MAX_HEADER_BYTES
    for chunk in chunks:
        start += chunk
        if len(start) >= 8:
            length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES or len(start) >= 8 + length:
            break
    if length > MAX_HEADER_BYTES or len(start) < 8 + length:
        return None
    try:
        header = json.loads(start[8 : 8 + length])
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or len(header) > MAX_TENSORS or any(len(name) > MAX_NAME_CHARACTERS for name in header):
        return None
    return [name for name in header if name != "__metadata__"]


def are_companion(tensors: Collection[str]) -> bool:
    """Return whether tensors of these names are surely what lies beside a denoiser: a VAE, a text encoder, an embedding."""
    if all(map(_EMBEDDING.fullmatch, tensors)):
        return True
    if is_adapter(tensors):
        return all(map(is_beside_denoiser, tensors))
    held = dict.fromkeys(tensors)
    for part in (*(names.without_prefix(held, prefix) for prefix in names.PREFIXES), names.averages(held), held):
        if family := names.family_of(part):
            return family in names.COMPANIONS
        if not _LANGUAGE.isdisjoint(names.heads(part)):
            return True
    return False
