"""The owner's key: 32 random bytes, and everything that follows from them (the derivation is this project's).

Layer choice, trigger masks and signs, and response masks and signs are derived from the seed by HKDF-SHA256 (RFC 5869) with
one ``info`` per purpose and layer, expanded to bits by a procedure that needs no library: an expert can redo it with any
SHA-256. The response signs are independent of every other part of the key; the exact test rests on that.

Version 2 shows the response on every channel: twice the bits, and stronger under every attack that was tried. Keys of version 1
have it on half of them, by a mask of their own.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aiao_core.errors import InvalidKey

SEED_BYTES = 32
PREFIX = "aiao1"
CHECKSUM_BYTES = 3
SECRET_LENGTH = len(PREFIX) + 56
DIGEST = r"^sha256:[0-9a-f]{64}$"

Version = Literal[1, 2]
Stranger = Literal["decoy", "other", "places"]
Purpose = Literal["layer-choice", "trigger-mask", "trigger-sign", "response-mask", "response-sign"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Frozen):
    """What a denoiser must look like for a key to fit: its diffusers class and configuration."""

    class_name: str
    config: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the canonical JSON, as ``sha256:<hex>``."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return _digest(canonical.encode())


class Layer(_Frozen):
    """A convolution or linear layer of the denoiser, by its module name, and its number of output channels."""

    name: str = Field(min_length=1)
    channels: int = Field(ge=1)


Subpath = tuple[int, int]


class PublicKey(_Frozen):
    """The part of a key that tells nothing about its masks and signs."""

    format: Literal["aiao.public-key"] = "aiao.public-key"
    version: Version = 2
    commitment: str = Field(pattern=DIGEST, description="SHA-256 of a label and the seed")
    architecture: Architecture
    num_train_timesteps: int = Field(ge=1)
    layers: tuple[Layer, ...] = Field(min_length=2, description="in execution order")
    subpaths: tuple[Subpath, ...] = Field(min_length=1, description="pairs (i, j) of indices into layers")
    bits: int = Field(ge=1, description="bits that the exact test compares")

    @model_validator(mode="after")
    def _subpaths_run_forward(self) -> "PublicKey":
        if any(not 0 <= i < j < len(self.layers) for i, j in self.subpaths):
            raise ValueError("a subpath must lead from one of the key's layers to a later one")
        return self


@dataclass(frozen=True)
class OwnerKey:
    """A seed (32 bytes) with the layers, in execution order, and subpaths (i, j) that were chosen for it."""

    seed: bytes
    architecture: Architecture
    num_train_timesteps: int
    layers: tuple[Layer, ...]
    subpaths: tuple[Subpath, ...]
    version: Version = 2

    def __repr__(self) -> str:
        return f"OwnerKey({self.commitment}, {len(self.layers)} layers)"  # never the seed: it may reach a log

    @property
    def commitment(self) -> str:
        return commitment(self.seed)

    @property
    def secret(self) -> str:
        return encode_secret(self.seed)

    @cached_property
    def trigger_layers(self) -> list[int]:
        """List the indices of the layers that take a trigger."""
        return sorted({i for i, _ in self.subpaths})

    @cached_property
    def response_layers(self) -> list[int]:
        """List the indices of the layers that show a response."""
        return sorted({j for _, j in self.subpaths})

    @cached_property
    def bits(self) -> int:
        """Count the bits that the exact test compares: the masked channels of all response layers."""
        return sum(int(self.response_mask(j).sum()) for j in self.response_layers)

    def trigger_mask(self, layer: int) -> NDArray[np.bool_]:
        """Derive m_i, (C,) boolean."""
        return self._bits("trigger-mask", layer)

    def trigger_sign(self, layer: int) -> NDArray[np.int8]:
        """Derive s_i, (C,) of -1 and +1."""
        return _signs(self._bits("trigger-sign", layer))

    def response_mask(self, layer: int) -> NDArray[np.bool_]:
        """Derive which channels of layer j show the response, (C,) boolean: all of them since version 2."""
        return self._bits("response-mask", layer) if self.version == 1 else np.ones(self.layers[layer].channels, np.bool_)

    def response_sign(self, layer: int) -> NDArray[np.int8]:
        """Derive r_j, (C,) of -1 and +1."""
        return _signs(self._bits("response-sign", layer))

    def _bits(self, purpose: Purpose, layer: int) -> NDArray[np.bool_]:
        return derive_bits(self.seed, purpose, self.layers[layer].name, self.layers[layer].channels)

    def stranger_seed(self, purpose: Stranger, test: int, number: int) -> bytes:
        """Derive the seed, 32 bytes, of a key that nobody owns or of inputs that find places, for the test of seed ``test``.

        It follows from the owner's own seed, so that only a holder of the key can foresee it: a thief could otherwise change a
        file until a decoy matches by chance and voids the test.
        """
        return _derive(self.seed, purpose, f"{test}/{number}", SEED_BYTES)

    def public(self) -> PublicKey:
        return PublicKey(
            version=self.version,
            commitment=self.commitment,
            architecture=self.architecture,
            num_train_timesteps=self.num_train_timesteps,
            layers=self.layers,
            subpaths=self.subpaths,
            bits=self.bits,
        )

    @classmethod
    def from_public(cls, public: PublicKey, secret: str) -> "OwnerKey":
        """Complete a public key by its secret. Raises :class:`InvalidKey` if the two do not belong together."""
        seed = decode_secret(secret)
        if commitment(seed) != public.commitment:
            raise InvalidKey(
                f"this secret belongs to the commitment {commitment(seed)}, not to {public.commitment}; "
                "use the secret that was shown when this model was registered"
            )
        key = cls(seed, public.architecture, public.num_train_timesteps, public.layers, public.subpaths, public.version)
        if key.bits != public.bits:
            raise InvalidKey(f"the key says {public.bits} bits, but its secret derives {key.bits}; it has been altered")
        return key

    def to_json(self) -> str:
        """Write the key file, with masks and signs (hex, see :func:`derive_bits`) so that an expert can audit them."""
        document = self.public().model_dump(mode="json")
        document |= {"format": "aiao.owner-key", "secret": self.secret, "derived": self._derived()}
        return json.dumps(document, indent=1) + "\n"

    def _derived(self) -> list[dict[str, str]]:
        purposes: list[Purpose] = ["trigger-mask", "trigger-sign", "response-mask", "response-sign"]
        if self.version > 1:
            purposes.remove("response-mask")
        return [
            {purpose: np.packbits(self._bits(purpose, layer), bitorder="little").tobytes().hex() for purpose in purposes}
            for layer in range(len(self.layers))
        ]

    @classmethod
    def from_json(cls, text: str) -> "OwnerKey":
        """Read a key file and check everything in it against the secret. Raises :class:`InvalidKey`."""
        try:
            document = json.loads(text)
            if not isinstance(document, dict) or document.get("format") != "aiao.owner-key":
                raise InvalidKey("not an owner key file: its format is not aiao.owner-key")
            secret, derived = str(document.pop("secret")), document.pop("derived")
            key = cls.from_public(PublicKey.model_validate(document | {"format": "aiao.public-key"}), secret)
        except (json.JSONDecodeError, RecursionError, KeyError) as error:
            raise InvalidKey("this key file is damaged; restore it from a copy") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidKey(f"this key file is damaged or of an unknown version: {where}: {first['msg']}") from error
        if derived != key._derived():
            raise InvalidKey("the masks and signs in this key file do not follow from its secret; it has been altered")
        return key


def generate_seed() -> bytes:
    """Draw 32 bytes from the operating system's random generator."""
    return secrets.token_bytes(SEED_BYTES)


def commitment(seed: bytes) -> str:
    """Return ``sha256:<hex>`` of a label and the seed: it binds the owner to the key without revealing the key."""
    return _digest(b"aiao/v1/commitment\0" + seed)


def encode_secret(seed: bytes) -> str:
    """Write a seed in its printable form: ``aiao1`` and base32, in lower case, of the seed and a 3-byte checksum."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    return PREFIX + base64.b32encode(seed + _checksum(seed)).decode().lower()


def decode_secret(text: str) -> bytes:
    """Read the seed of a printable secret; case and white space do not matter. Raises :class:`InvalidKey` for a typo."""
    compact = "".join(text.split()).lower()
    if not compact.startswith(PREFIX):
        raise InvalidKey(f"a secret key begins with {PREFIX}; this text does not")
    if len(compact) != SECRET_LENGTH:
        raise InvalidKey(f"a secret key has {SECRET_LENGTH} characters; this one has {len(compact)}")
    try:
        payload = base64.b32decode(compact.removeprefix(PREFIX).upper())
    except ValueError as error:
        raise InvalidKey("a secret key has only the letters a-z and the digits 2-7 after its prefix") from error
    seed, checksum = payload[:SEED_BYTES], payload[SEED_BYTES:]
    if checksum != _checksum(seed):
        raise InvalidKey("the checksum of this secret key is wrong: at least one character was mistyped")
    return seed


def derive_bits(seed: bytes, purpose: Purpose, layer_name: str, count: int) -> NDArray[np.bool_]:
    """Derive ``count`` bits, (count,) boolean: HKDF-SHA256 of the seed without salt, info ``aiao/v1/<purpose>/<layer name>``.

    Bit k is bit k % 8, least significant first, of byte k // 8 of the output.
    """
    output = np.frombuffer(_derive(seed, purpose, layer_name, -(-count // 8)), np.uint8)
    return np.unpackbits(output, bitorder="little")[:count].astype(np.bool_)


def choose_layers(seed: bytes, candidates: Sequence[str], count: int) -> list[str]:
    """List the ``count`` candidates that the key ranks first (8 bytes, big-endian), in the order of ``candidates``."""
    chosen = set(sorted(candidates, key=lambda name: _derive(seed, "layer-choice", name, 8))[:count])
    return [name for name in candidates if name in chosen]


def _derive(seed: bytes, purpose: Purpose | Stranger, layer_name: str, length: int) -> bytes:
    info = f"aiao/v1/{purpose}/{layer_name}".encode()  # no purpose contains a slash, so no two infos coincide
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(seed)


def _signs(bits: NDArray[np.bool_]) -> NDArray[np.int8]:
    return np.where(bits, 1, -1).astype(np.int8)


def _checksum(seed: bytes) -> bytes:
    return hashlib.sha256(b"aiao/v1/checksum\0" + seed).digest()[:CHECKSUM_BYTES]


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
