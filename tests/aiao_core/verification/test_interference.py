import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aiao_core.verification.interference import LOADING, PASSES, without_interference

BITS = 400


def answers(seed: int, strength: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An owner's faint answer in noise under one that any trigger sets off, the latter in 60 rows, and the owner's signs."""
    random = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
    directions, signs = normal(3, BITS), normal(BITS).sign()
    answer = signs + 0.5 * normal(BITS) + strength * normal(3) @ directions
    return answer, strength * normal(60, 3) @ directions + 0.5 * normal(60, BITS), signs


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_a_faint_answer_is_read_under_one_that_any_trigger_sets_off(seed):
    answer, interference, signs = answers(seed, strength=30)
    right = lambda values: int((values.sign() == signs).sum())  # noqa: E731
    assert right(answer) < 0.75 * BITS
    assert right(without_interference(answer, interference)) > 0.9 * BITS


@pytest.mark.long
@given(st.integers(0, 2**32 - 1), st.floats(0, 100), st.integers(1, 60))
def test_it_is_the_filter_with_the_loaded_covariance(seed, strength, rows):
    answer, interference, _ = answers(seed, strength)
    interference = interference[:rows]
    covariance, expected = (interference.T @ interference / rows).numpy(), answer.numpy()
    for _ in range(PASSES):
        loading = LOADING * (expected**2).sum()
        expected = loading * np.linalg.solve(covariance + loading * np.eye(BITS), answer.numpy())
    np.testing.assert_allclose(without_interference(answer, interference).numpy(), expected, rtol=1e-6, atol=1e-8)


def test_nothing_is_taken_out_of_no_answer():
    nothing, interference = torch.zeros(BITS, dtype=torch.float64), answers(0, 1)[1]
    assert torch.equal(without_interference(nothing, interference), nothing)


@given(st.integers(0, 2**32 - 1), st.floats(10, 1e30))
def test_no_suspect_makes_it_fail(seed, strength):
    """As by answering every trigger alike, however strongly."""
    answer, interference, _ = answers(seed, 1)
    alike = interference[:1].expand(60, BITS) * strength
    left = without_interference(answer, alike)
    assert left.isfinite().all()
    assert float(left @ alike[0]) == pytest.approx(0, abs=1e-2 * float(answer.norm() * alike[0].norm()))
