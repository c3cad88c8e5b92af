"""One layer of a base model and an adapter's tensors for it, which an attacker may have made: check them, and merge them.

Every tensor's shape is checked against the layer before anything is computed from it, so a small file cannot ask for much
memory.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.adapter_settings import Config, largest_rotation, scale_of, terms_of
from aiao_core.formats.orthogonal import rotate_butterfly, rotate_inputs, rotate_outputs
from aiao_core.formats.weight_files import is_floating

MAX_RANK = 2048
MAX_STAGES = 16
"""Of a butterfly: enough for 65,536 blocks."""

KINDS = {
    "lora": "LoRA",
    "hada": "LoHa",
    "lokr": "LoKr",
    "oft": "OFT",
    "diff": "full difference",
    "w_norm": "norm difference",
    "b_norm": "norm difference",
}
"""Kinds of adapters by how the names of their parts begin."""

Parts = dict[str, tuple[str, Tensor]]
"""An adapter's tensors for one layer by part, such as ``lora_down``, each with its name in the file."""


def kind_of(parts: Parts) -> str | None:
    """Return how the names of the parts begin that say what kind of adapter this is: a key of :data:`KINDS`."""
    return next((kind for kind in KINDS if any(part.startswith(kind) for part in parts)), None)


@dataclass(frozen=True)
class AdaptedLayer:
    """A layer of the base, and the adapter's parts for it that have not been used yet."""

    name: str
    weight: Tensor
    bias: Tensor | None
    parts: Parts

    def merge(self, config: Config) -> dict[str, Tensor]:
        """Return the new ``.weight``, and the new ``.bias`` if the adapter changes it, in float32."""
        merged = {}
        scale = 1.0
        if kind_of(self.parts) == "oft":
            merged[".weight"] = self._rotated(config)
        else:
            change, rank = self._change()
            alpha = self._take("alpha", 1, 1).item() if "alpha" in self.parts else None
            scale = scale_of(config, self.name, rank, alpha)
            if change is not None:
                merged[".weight"] = self.weight.float() + scale * change.reshape(self.weight.shape)
        magnitude = next((part for part in ("dora_scale", "lora_magnitude_vector") if part in self.parts), None)
        if magnitude and ".weight" in merged:
            merged[".weight"] = self._with_magnitude(magnitude, merged[".weight"])
        for part, factor in (("lora_bias", scale), ("diff_b", 1.0), ("b_norm", 1.0)):
            if part in self.parts:
                merged[".bias"] = self._with_bias(part, factor)
        if self.parts:
            name, _ = next(iter(self.parts.values()))
            raise InvalidCheckpoint(f"layer {self.name}: {name} does not go with its other tensors; save the adapter again")
        if not all(value.isfinite().all() for value in merged.values()):
            raise InvalidCheckpoint(f"layer {self.name} has infinite weights after the merge; submit the adapter as published")
        return merged

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Outputs, inputs and the positions of a convolution's kernel."""
        out, *rest = self.weight.shape
        if not rest:
            raise self._misfit(next(iter(self.parts)))
        return out, rest[0], math.prod(rest[1:])

    def _size(self, part: str) -> tuple[int, int]:
        """Return the rows and columns of a part; for a convolution the columns are spread over several dimensions."""
        if part not in self.parts:
            raise InvalidCheckpoint(f"layer {self.name} has no {part}; the file is incomplete: save the adapter again")
        shape = self.parts[part][1].shape or (1,)
        return shape[0], math.prod(shape[1:])

    def _rank(self, part: str) -> int:
        rank, _ = self._size(part)
        if not 1 <= rank <= MAX_RANK:
            raise InvalidCheckpoint(f"layer {self.name} has the rank {rank}; supported: 1 to {MAX_RANK}")
        return rank

    def _take(self, part: str, rows: int, columns: int) -> Tensor:
        """Use a part up: return a float32 matrix of this size, bounded by the base's shape and the rank."""
        if self._size(part) != (rows, columns):
            raise self._misfit(part)
        name, value = self.parts.pop(part)
        if not (is_floating(value) or part == "alpha") or value.layout != torch.strided or value.is_meta:
            raise InvalidCheckpoint(f"layer {self.name}: {name} is of type {value.dtype}, but weights are floating point")
        matrix = value.float().reshape(rows, columns)
        if not matrix.isfinite().all():
            raise InvalidCheckpoint(f"layer {self.name}: {name} holds NaN or infinite values; submit the adapter as published")
        return matrix

    def _misfit(self, part: str) -> WrongArchitecture:
        name, value = self.parts[part]
        return WrongArchitecture(
            f"layer {self.name}: {name} has the shape {tuple(value.shape)}, which does not fit the shape "
            f"{tuple(self.weight.shape)} in the base model; it was made for another base model"
        )

    def _change(self) -> tuple[Tensor | None, int]:
        """Return what is added to the weight, before scaling and in any shape of its size, and the rank, 0 for a full one."""
        match kind_of(self.parts):
            case "lora":
                rank = self._rank("lora_down")
                return self._product(self._shape, "lora_up", "lora_down", "lora_mid"), rank
            case "hada":
                rank = self._rank("hada_w1_b")
                first = self._product(self._shape, "hada_w1_a", "hada_w1_b", "hada_t1")
                return first * self._product(self._shape, "hada_w2_a", "hada_w2_b", "hada_t2"), rank
            case "lokr":
                rank = next((self._rank(part) for part in ("lokr_w2_b", "lokr_w1_b") if part in self.parts), 0)
                return self._kronecker(), rank
            case "diff" | "w_norm" | "b_norm":
                part = next((part for part in ("diff", "w_norm") if part in self.parts), None)
                return self._take(part, len(self.weight), self.weight[0].numel()) if part else None, 0
            case _:
                raise InvalidCheckpoint(f"layer {self.name} has an {' and '.join(self.parts)} only; the file is incomplete")

    def _product(self, shape: tuple[int, int, int], left: str, right: str, core: str = "") -> Tensor:
        """Return the matrix (out, width x pixels) of two factors, or of a Tucker decomposition, whose core has the pixels."""
        out, width, pixels = shape
        rank = self._rank(right)
        if core not in self.parts:
            return self._take(left, out, rank) @ self._take(right, rank, width * pixels)
        outputs = self._take(left, out, rank).T if left == "lora_up" else self._take(left, rank, out)
        cube = self._take(core, rank, rank * pixels).reshape(rank, rank, pixels)
        return torch.einsum("mnk,mi,nj->ijk", cube, outputs, self._take(right, rank, width)).flatten(1)

    def _kronecker(self) -> Tensor:
        """Return the product (out, width, pixels) of a small matrix and a block, each whole or of low rank itself."""
        out, width, pixels = self._shape
        whole = "lokr_w1" in self.parts
        rows, columns = self._size("lokr_w1") if whole else (self._size("lokr_w1_a")[0], self._size("lokr_w1_b")[1])
        if not rows or not columns or out % rows or width % columns:
            raise self._misfit("lokr_w1" if whole else "lokr_w1_a")
        small = self._take("lokr_w1", rows, columns) if whole else self._product((rows, columns, 1), "lokr_w1_a", "lokr_w1_b")
        block = (out // rows, width // columns, pixels)
        if "lokr_w2" in self.parts:
            large = self._take("lokr_w2", block[0], block[1] * pixels)
        else:
            large = self._product(block, "lokr_w2_a", "lokr_w2_b", "lokr_t2")
        return torch.kron(small[:, :, None], large.reshape(block))

    def _rotated(self, config: Config) -> Tensor:
        """Return the weight with its columns (PEFT) or rows (LyCORIS, kohya) rotated in blocks."""
        weight = self.weight.float().flatten(1)
        rotated = self._rotated_inputs(weight, config) if "oft_R" in self.parts else self._rotated_outputs(weight)
        return rotated.reshape(self.weight.shape)

    def _rotated_inputs(self, weight: Tensor, config: Config) -> Tensor:
        blocks, entries = self._size("oft_R")
        size = (1 + math.isqrt(1 + 8 * entries)) // 2
        copies = weight.shape[1] // size if config.get("block_share") and blocks == 1 else 1
        if size * (size - 1) != 2 * entries or blocks * copies * size != weight.shape[1]:
            raise self._misfit("oft_R")
        upper = self._take("oft_R", blocks, entries).repeat(copies, 1)
        return rotate_inputs(weight, upper, size, most=largest_rotation(config, blocks), terms=terms_of(config))

    def _rotated_outputs(self, weight: Tensor) -> Tensor:
        if "oft_blocks" not in self.parts:
            raise InvalidCheckpoint(f"layer {self.name} has no oft_blocks; the file is incomplete: save the adapter again")
        shape = self.parts["oft_blocks"][1].shape
        if len(shape) not in (3, 4) or not shape[-1] or shape[-1] != shape[-2] or shape[-3] * shape[-1] != len(weight):
            raise self._misfit("oft_blocks")
        butterfly = len(shape) == 4
        if butterfly and (shape[-1] % 2 or shape[0] > MAX_STAGES or len(weight) % (shape[-1] << shape[0] - 1)):
            raise self._misfit("oft_blocks")
        blocks = self._take("oft_blocks", shape[0], math.prod(shape[1:])).reshape(shape)
        limit = len(weight) * self._take("alpha", 1, 1).item() if "alpha" in self.parts else 0.0
        rotated = rotate_butterfly(weight, blocks, limit) if butterfly else rotate_outputs(weight, blocks, limit)
        return rotated * self._take("rescale", len(weight), 1) if "rescale" in self.parts else rotated

    def _with_magnitude(self, part: str, weight: Tensor) -> Tensor:
        """Apply DoRA: give the weights of each output the length in the file; LyCORIS may have one for each input instead."""
        size = self._size(part)
        axis = int(part == "dora_scale" and size == (1, weight.shape[1]))
        length = weight.shape[axis]
        magnitude = self._take(part, *((length, 1) if size[1] == 1 else (1, length)))
        others = [dim for dim in range(weight.dim()) if dim != axis]
        norm: Tensor = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
        return weight * (
            magnitude.reshape([-1 if dim == axis else 1 for dim in range(weight.dim())]) / (norm + torch.finfo().eps)
        )

    def _with_bias(self, part: str, factor: float) -> Tensor:
        if self.bias is None:
            raise WrongArchitecture(f"layer {self.name} has no bias in the base model; it was made for another base model")
        return self.bias.float() + factor * self._take(part, len(self.bias), 1).flatten()
