"""Everything that follows from the 32 bytes of a key's seed (this project).

Layer choice, trigger masks and signs, and response masks and signs are derived by HKDF-SHA256 (RFC 5869) with one ``info`` per
purpose and layer, or subpath, expanded to bits by a procedure that needs no library: an expert can redo it with any SHA-256.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

Stranger = Literal["decoy", "other", "places"]
Purpose = Literal["layer-choice", "trigger-mask", "trigger-sign", "response-mask", "response-sign"]


def derive_bits(seed: bytes, purpose: Purpose, layer_name: str, count: int) -> NDArray[np.bool_]:
    """Derive ``count`` bits, (count,) boolean: HKDF-SHA256 of the seed without salt, info ``aiao/v1/<purpose>/<layer name>``.

    Bit k is bit k % 8, least significant first, of byte k // 8 of the output.
    """
    return _bits(derive(seed, purpose, layer_name, -(-count // 8)), count)


def bound_bits(seed: bytes, purpose: Purpose, bound_to: str, label: str, count: int) -> NDArray[np.bool_]:
    """Derive ``count`` bits as :func:`derive_bits` does, with the info ``aiao/v3/<purpose>/<bound_to>/<label>``.

    ``bound_to`` is the SHA-256, in 64 hex digits, of what the bits depend on besides the seed.
    """
    return _bits(_expand(seed, f"aiao/v3/{purpose}/{bound_to}/{label}", -(-count // 8)), count)


def choose_layers(seed: bytes, candidates: Sequence[str], count: int) -> list[str]:
    """List the ``count`` candidates that the key ranks first (8 bytes, big-endian), in the order of ``candidates``."""
    chosen = set(sorted(candidates, key=lambda name: derive(seed, "layer-choice", name, 8))[:count])
    return [name for name in candidates if name in chosen]


def derive(seed: bytes, purpose: Purpose | Stranger, layer_name: str, length: int) -> bytes:
    """Derive ``length`` bytes of a purpose and a layer."""
    return _expand(seed, f"aiao/v1/{purpose}/{layer_name}", length)  # no purpose has a slash, so no two infos coincide


def signs(bits: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Turn bits into signs, -1 for False and +1 for True."""
    return np.where(bits, 1, -1).astype(np.int8)


def _expand(seed: bytes, info: str, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info.encode()).derive(seed)


def _bits(output: bytes, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(output, np.uint8), bitorder="little")[:count].astype(np.bool_)
