"""The owner's key: 32 random bytes, and everything that follows from them (:mod:`aiao_core.derivation`, this project's).

The response signs are independent of every other part of the key; the exact test rests on that.

Version 3 has a row of response signs of its own for each subpath, and binds all of them to everything else that a test uses
(:class:`Binding`): a claimant who makes a source, repeats a layer or picks subpaths gets other signs. Layers and
triggers do not depend on that, so they can be derived before it is known. Version 2 has one row of signs for each response
layer, whatever the trigger: their common direction can be read out of published weights. Version 1 shows it on half of the
channels.
"""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aiao_core.derivation import Purpose, Stranger, bound_bits, derive, derive_bits, signs
from aiao_core.errors import InvalidKey

SEED_BYTES = 32
PREFIX = "aiao1"
CHECKSUM_BYTES = 3
SECRET_LENGTH = len(PREFIX) + 56
DIGEST = r"^sha256:[0-9a-f]{64}$"

Version = Literal[1, 2, 3]
BINDING_VERSION = 3
"""First version of keys whose response signs are bound."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Frozen):
    """What a denoiser must look like for a key to fit: its diffusers class and configuration."""

    class_name: str
    config: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the canonical JSON, as ``sha256:<hex>``."""
        return _digest(_canonical(self.model_dump(mode="json")))


class Layer(_Frozen):
    """A convolution or linear layer of the denoiser, by its module name, and its number of output channels."""

    name: str = Field(min_length=1)
    channels: int = Field(ge=1)


Subpath = tuple[int, int]


class Binding(_Frozen):
    """What the response signs of version 3 follow from, besides the seed and what every key holds."""

    source: str = Field(pattern=DIGEST, description="of the source's weights (aiao_core.denoisers.weights.digest)")
    protocol: int = Field(ge=3, description="version of the protocol that reads the key (aiao_core.protocol)")
    beacon: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="public random value that appeared after the commitment was dated, as a beacon of randomness publishes",
        exclude_if=lambda value: value is None,
    )


class PublicKey(_Frozen):
    """The part of a key that tells nothing about its masks and signs."""

    format: Literal["aiao.public-key"] = "aiao.public-key"
    version: Version = 3
    commitment: str = Field(pattern=DIGEST, description="SHA-256 of a label and the seed")
    architecture: Architecture
    num_train_timesteps: int = Field(ge=1)
    layers: tuple[Layer, ...] = Field(min_length=2, description="in execution order")
    subpaths: tuple[Subpath, ...] = Field(min_length=1, description="pairs (i, j) of indices into layers")
    bits: int = Field(ge=1, description="bits that the exact test compares")
    binding: Binding | None = Field(None, description="of keys since version 3", exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _bound_since_version_3(self) -> "PublicKey":
        if (self.version >= BINDING_VERSION) != (self.binding is not None):
            raise ValueError("a key has a binding since version 3, and none before")
        return self

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
    version: Version = 3
    binding: Binding | None = None
    """None of versions 1 and 2, and while the source is not fixed yet: then there are no response signs."""

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
        """Count the bits of the key: the channels at the end of every subpath, before version 3 of every response layer."""
        if self.version >= BINDING_VERSION:
            return sum(self.layers[j].channels for _, j in self.subpaths)
        return sum(int(self.response_mask(j).sum()) for j in self.response_layers)

    def bound(self, source: str, protocol: int, beacon: str | None = None) -> "OwnerKey":
        """Bind the response signs of a key of version 3: see :class:`Binding` for the arguments."""
        return replace(self, binding=Binding(source=source, protocol=protocol, beacon=beacon))

    @cached_property
    def bound_to(self) -> str:
        """Return the SHA-256, in hex, of everything that the response signs of version 3 follow from besides the seed.

        It is of the canonical JSON of architecture, timesteps, layers, subpaths and binding.
        """
        if self.binding is None:
            raise ValueError("this key is not bound to a source yet, so it has no response signs")
        document = {
            "architecture": self.architecture.model_dump(mode="json"),
            "num_train_timesteps": self.num_train_timesteps,
            "layers": [layer.model_dump(mode="json") for layer in self.layers],
            "subpaths": self.subpaths,
            "binding": self.binding.model_dump(mode="json"),
        }
        return hashlib.sha256(_canonical(document)).hexdigest()

    def trigger_mask(self, layer: int) -> NDArray[np.bool_]:
        """Derive m_i, (C,) boolean."""
        return self._bits("trigger-mask", layer)

    def trigger_sign(self, layer: int) -> NDArray[np.int8]:
        """Derive s_i, (C,) of -1 and +1."""
        return signs(self._bits("trigger-sign", layer))

    def response_mask(self, layer: int) -> NDArray[np.bool_]:
        """Derive which channels of layer j show the response, (C,) boolean: all of them but in version 1."""
        return self._bits("response-mask", layer) if self.version == 1 else np.ones(self.layers[layer].channels, np.bool_)

    def response_sign(self, layer: int) -> NDArray[np.int8]:
        """Derive r_j of versions 1 and 2, (C,) of -1 and +1."""
        return signs(self._bits("response-sign", layer))

    def subpath_sign(self, i: int, j: int) -> NDArray[np.int8]:
        """Derive r_ij of version 3, (C_j,) of -1 and +1. Raises ValueError while the key is not bound."""
        return signs(self._subpath_bits(i, j))

    def _subpath_bits(self, i: int, j: int) -> NDArray[np.bool_]:
        label = f"{i}:{self.layers[i].name}>{j}:{self.layers[j].name}"
        return bound_bits(self.seed, "response-sign", self.bound_to, label, self.layers[j].channels)

    def _bits(self, purpose: Purpose, layer: int) -> NDArray[np.bool_]:
        return derive_bits(self.seed, purpose, self.layers[layer].name, self.layers[layer].channels)

    def stranger_seed(self, purpose: Stranger, test: int, number: int) -> bytes:
        """Derive the seed, 32 bytes, of a key that nobody owns or of inputs that find places, for the test of seed ``test``.

        It follows from the owner's own seed, so that only a holder of the key can foresee it: a thief could otherwise change a
        file until a decoy matches by chance and voids the test.
        """
        return derive(self.seed, purpose, f"{test}/{number}", SEED_BYTES)

    def public(self) -> PublicKey:
        return PublicKey(
            version=self.version,
            commitment=self.commitment,
            architecture=self.architecture,
            num_train_timesteps=self.num_train_timesteps,
            layers=self.layers,
            subpaths=self.subpaths,
            bits=self.bits,
            binding=self.binding,
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
        key = cls(
            seed,
            public.architecture,
            public.num_train_timesteps,
            public.layers,
            public.subpaths,
            public.version,
            public.binding,
        )
        if key.bits != public.bits:
            raise InvalidKey(f"the key says {public.bits} bits, but its secret derives {key.bits}; it has been altered")
        return key

    def to_json(self) -> str:
        """Write the key file, with masks and signs (hex, see :func:`aiao_core.derivation.derive_bits`), for audits."""
        document = self.public().model_dump(mode="json")
        document |= {"format": "aiao.owner-key", "secret": self.secret} | self._derived()
        return json.dumps(document, indent=1) + "\n"

    def _derived(self) -> dict[str, Any]:
        purposes: list[Purpose] = ["trigger-mask", "trigger-sign"]
        if self.version == 1:
            purposes.append("response-mask")
        if self.version < BINDING_VERSION:
            purposes.append("response-sign")
        of_layers = [{purpose: _hex(self._bits(purpose, layer)) for purpose in purposes} for layer in range(len(self.layers))]
        if self.version < BINDING_VERSION:
            return {"derived": of_layers}
        return {"derived": of_layers, "response_signs": [_hex(self._subpath_bits(i, j)) for i, j in self.subpaths]}

    @classmethod
    def from_json(cls, text: str) -> "OwnerKey":
        """Read a key file and check everything in it against the secret. Raises :class:`InvalidKey`."""
        try:
            document = json.loads(text)
            if not isinstance(document, dict) or document.get("format") != "aiao.owner-key":
                raise InvalidKey("not an owner key file: its format is not aiao.owner-key")
            secret, derived = str(document.pop("secret")), {"derived": document.pop("derived")}
            if "response_signs" in document:
                derived["response_signs"] = document.pop("response_signs")
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


def _checksum(seed: bytes) -> bytes:
    return hashlib.sha256(b"aiao/v1/checksum\0" + seed).digest()[:CHECKSUM_BYTES]


def _hex(bits: NDArray[np.bool_]) -> str:
    return np.packbits(bits, bitorder="little").tobytes().hex()


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
