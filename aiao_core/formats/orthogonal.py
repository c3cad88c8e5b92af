"""Orthogonal fine-tuning (Qiu et al. 2023, arXiv 2306.07280): adapters that rotate the rows or columns of a weight in blocks.

Every rotation is the Cayley transform of a skew-symmetric matrix, so it exists for any numbers in a file.
"""

import torch
from torch import Tensor


def rotate_outputs(weight: Tensor, blocks: Tensor, limit: float) -> Tensor:
    """Rotate the rows of ``weight`` (R, ...) by ``blocks`` (K, B, B) with K B = R, as LyCORIS and kohya's programs do.

    ``limit`` bounds the norm of the skew-symmetric matrices, unless it is 0.
    """
    count, size, _ = blocks.shape
    rows = weight.reshape(count, size, -1)
    return torch.einsum("knm,kni->kmi", _rotations(blocks, limit), rows).reshape(weight.shape)


def rotate_butterfly(weight: Tensor, blocks: Tensor, limit: float) -> Tensor:
    """Rotate the rows of ``weight`` (R, ...) in M stages by ``blocks`` (M, K, B, B), as LyCORIS' BOFT does.

    Stage i brings rows together that are B/2 · 2ⁱ apart (Liu et al. 2023, arXiv 2311.06243). R must be a multiple of B · 2ⁱ for
    every stage.
    """
    rows = weight.reshape(len(weight), -1)
    half = blocks.shape[-1] // 2
    for stage, rotations in enumerate(_rotations(blocks, limit)):
        distance = 2**stage * half
        apart = rows.reshape(-1, 2, distance, rows.shape[1])
        near = apart.transpose(1, 2).reshape(len(rotations), 2 * half, -1)
        rotated = torch.einsum("kij,kjn->kin", rotations, near).reshape(-1, distance, 2, rows.shape[1])
        rows = rotated.transpose(1, 2).reshape(rows.shape)
    return rows.reshape(weight.shape)


def rotate_inputs(weight: Tensor, entries: Tensor, size: int, *, most: float | None, terms: int | None) -> Tensor:
    """Rotate the columns of ``weight`` (R, C), as PEFT does.

    ``entries`` (K, B (B - 1) / 2) are the upper triangles of skew-symmetric matrices of the side B = ``size``, K B = C.
    ``most`` is the largest norm of each, if the adapter bounds it; ``terms`` the length of the series with which it was trained
    instead of the exact transform.
    """
    matrices = entries.new_zeros(len(entries), size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    matrices[:, rows, columns] = entries
    skew = matrices - matrices.mT
    if most is not None:
        skew = skew * (most / skew.flatten(1).norm(dim=1).clamp(min=most))[:, None, None]
    rotations = _cayley(-skew) if terms is None else _series(skew, terms)
    blocks = weight.reshape(len(weight), len(entries), size)
    return torch.einsum("rkj,kij->rki", blocks, rotations).reshape(weight.shape)


def _rotations(blocks: Tensor, limit: float) -> Tensor:
    skew = blocks - blocks.mT
    if limit > 0:
        skew = skew * (limit / (skew.norm() + 1e-8)).clamp(max=1)
    return _cayley(skew)


def _cayley(skew: Tensor) -> Tensor:
    """Return (I + S) (I - S)⁻¹ of skew-symmetric matrices (..., B, B)."""
    identity = torch.eye(skew.shape[-1]).expand_as(skew)
    rotations: Tensor = torch.linalg.solve(identity - skew, identity + skew, left=False)
    return rotations


def _series(skew: Tensor, terms: int) -> Tensor:
    """Return I + 2 S + 2 S² + ... as PEFT shortens it to ``terms``: its highest power, from the third on, counts once."""
    highest = max(3, terms - 1) if terms > 2 else terms - 1
    identity = torch.eye(skew.shape[-1]).expand_as(skew)
    total, power = identity.clone(), identity
    for exponent in range(1, highest + 1):
        power = power @ skew
        total = total + power * (1 if exponent == highest > 2 else 2)
    return total
