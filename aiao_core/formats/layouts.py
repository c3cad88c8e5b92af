"""The original layout of a denoiser: which rows of which of diffusers' tensors each tensor of the first program's file holds.

One table a family says it by name. Everything follows from it: reading a single file,
writing one, and finding the layers that an adapter names by the first program's words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aiao_core.errors import WrongArchitecture
from aiao_core.formats.weight_files import Weights

KINDS = ("", ".weight", ".bias")
"""What ends the names of a layer's tensors. A row of a table may name a whole tensor too, which nothing ends."""


@dataclass(frozen=True)
class Rows:
    """Tensors or layers of diffusers, by name, whose rows make up one of the original layout, in this order."""

    parts: tuple[str, ...]
    exchanged: bool = False
    """Whether the two halves are exchanged: the first programs put the shift before the scale, diffusers the scale first."""

    def of_kind(self, kind: str) -> "Rows":
        """Return the rows of the layers' ``kind``, such as ``.weight``."""
        return Rows(tuple(part + kind for part in self.parts), self.exchanged)

    def join(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the tensor of the original layout: for one part without a copy."""
        value = weights[self.parts[0]] if len(self.parts) == 1 else torch.cat([weights[part] for part in self.parts])
        return torch.cat(value.chunk(2)[::-1]) if self.exchanged else value

    def split(self, name: str, value: Tensor, expected: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield the parts of ``value``, the tensor ``name``, with as many rows each as the ``expected`` tensors have.

        Views, but for exchanged halves. Raises :class:`WrongArchitecture` for another number of rows.
        """
        counts = [len(expected[part]) if expected[part].dim() else 1 for part in self.parts]
        if len(self.parts) == 1 and not self.exchanged:
            yield self.parts[0], value  # whose shape the caller checks
            return
        if not value.dim() or len(value) != sum(counts):
            raise WrongArchitecture(
                f"the tensor {name} has the shape {tuple(value.shape)}, but {sum(counts)} rows in the registered model; "
                "it was made for another one"
            )
        if self.exchanged:
            value = torch.cat(value.chunk(2)[::-1])
        yield from zip(self.parts, torch.split(value, counts), strict=True)


@dataclass(frozen=True)
class OriginalNames:
    """The original names of the tensors of one denoiser."""

    rows: dict[str, Rows]
    """By every name that a file may have, the one that is written first."""
    layers: dict[str, Rows]
    """By the original name of a layer, the layers of diffusers that it holds: what adapters change."""
    unused: tuple[str, ...] = ()
    """Tensors that the first program's files hold and no model uses."""

    def to_diffusers(self, weights: Weights, expected: Mapping[str, Tensor], words: str) -> Weights:
        """Return tensors by their names in diffusers. One that the file lacks is missing in the result.

        ``expected`` has the registered denoiser's tensors. Raises :class:`WrongArchitecture` for a tensor without a place.
        """
        converted: Weights = {}
        strangers = [name for name in weights if name not in self.rows and name not in self.unused]
        if strangers:
            raise WrongArchitecture(
                f"the tensor {strangers[0]}, and {len(strangers) - 1} more, has no place in a {words} of the registered "
                "configuration; remove what does not belong to the denoiser"
            )
        for name, value in weights.items():
            if name in self.unused:
                continue
            for part, rows in self.rows[name].split(name, value, expected):
                if part in converted:
                    raise WrongArchitecture(f"the tensor {name} is there by two names; keep one of them")
                converted[part] = rows
        return converted

    def from_diffusers(self, weights: Weights) -> Weights:
        """Return all tensors of a denoiser by the original names, as the first program would write them."""
        written: set[str] = set()
        original: Weights = {}
        for name, rows in self.rows.items():
            if written.isdisjoint(rows.parts):
                written.update(rows.parts)
                original[name] = rows.join(weights).contiguous()
        return original


@dataclass(frozen=True)
class Layout:
    """The table of one family. ``{}`` stands for the number of a block, the same on both sides.

    ``table`` gives the layers or tensors in diffusers, separated by spaces, for each name in the original layout; a name that
    comes later for the same tensors is another spelling, which is read and never written. A tensor that no row names has the
    same name in both. ``exchanged`` lists the layers whose
    output is a shift and a scale, ``unused`` the tensors that no model uses.
    """

    table: dict[str, str]
    exchanged: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def names(self, registered: Mapping[str, Tensor]) -> OriginalNames:
        """Return the original names of a denoiser with the ``registered`` tensors, which may be without numbers."""
        by_shape: dict[str, list[str]] = {}
        for name in registered:
            by_shape.setdefault(_without_numbers(name), []).append(name)
        rows: dict[str, Rows] = {}
        layers: dict[str, Rows] = {}
        for original, targets in self.table.items():
            first, *_ = patterns = targets.split()
            for kind in KINDS:
                for name in by_shape.get(_without_numbers(first + kind), []):
                    if (numbers := _numbers(first + kind, name)) is None:
                        continue
                    parts = tuple(pattern.format(*numbers) for pattern in patterns)
                    found = Rows(parts, original in self.exchanged and _is_shift_and_scale(registered[parts[0] + ".weight"]))
                    if _fit_together([registered.get(part + kind) for part in parts]):
                        rows[original.format(*numbers) + kind] = found.of_kind(kind)
                        if kind == ".weight":
                            layers[original.format(*numbers)] = found
        named = {part for of in rows.values() for part in of.parts}
        for name in registered:
            if name not in named:
                rows[name] = Rows((name,))
                if name.endswith(".weight"):
                    layers[name.removesuffix(".weight")] = Rows((name.removesuffix(".weight"),))
        return OriginalNames(rows, layers, self.unused)


def within(original: str, diffusers: str, table: dict[str, str]) -> dict[str, str]:
    """Return a table of names inside blocks by their full names."""
    return {
        f"{original}.{name}": " ".join(f"{diffusers}.{target}" for target in targets.split()) for name, targets in table.items()
    }


def _fit_together(tensors: Sequence[Tensor | None]) -> bool:
    """Return whether the tensors are there and can lie below each other: a registrant's configuration may be any."""
    return all(tensor is not None for tensor in tensors) and (
        len(tensors) == 1 or len({tensor.shape[1:] for tensor in tensors if tensor is not None and tensor.dim()}) == 1
    )


def _is_shift_and_scale(weight: Tensor) -> bool:
    """Return whether a modulation has these two outputs. SD 3's text blocks have six, but the last one has two."""
    return weight.dim() == 2 and weight.shape[0] == 2 * weight.shape[1]


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+|\{\}", "#", name)


def _numbers(pattern: str, name: str) -> tuple[str, ...] | None:
    match = re.fullmatch(re.escape(pattern).replace(r"\{\}", r"(\d+)"), name)
    return match and match.groups()
