"""The estimates against what was measured (benchmarks/results/full_size.txt), and against themselves."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.options import EmbeddingOptions
from service.artifacts.denoisers import UNKNOWN, Denoiser
from service.jobs import memory
from tests.support.places import PROJECT

MEASURED = (PROJECT / "benchmarks/results/full_size.txt").read_text()
MODELS = {
    "sd15": Denoiser("UNet2DConditionModel", 859_520_964, 64 * 64, 123_060_480),
    "sdxl": Denoiser("UNet2DConditionModel", 2_567_463_684, 128 * 128, 817_720_320),
    "sd3-medium": Denoiser("SD3Transformer2DModel", 2_028_328_000, 128 * 128, 5_580_000_000),
}
A_PROCESS = 0.54e9
"""What it takes before it has any weights (benchmarks/results/memory.txt)."""

TOO_MUCH = 1.35
"""By how much an estimate may be above what was measured, on models of this size."""

DENOISERS = st.builds(
    Denoiser,
    st.sampled_from([*memory.ACTIVATION_BYTES, "FluxTransformer2DModel", ""]),
    st.integers(0, 1 << 40),
    st.integers(1, 4096**2),
    st.integers(0, 1 << 40),
)
OPTIONS = st.builds(EmbeddingOptions, batch_size=st.integers(2, 4096), gradient_checkpointing=st.booleans())


def peak(name: str, what: str) -> float:
    """Bytes that ``what`` took of this model."""
    section = re.split(r"^(\S+): ", MEASURED, flags=re.MULTILINE)
    lines = section[section.index(name) + 1]
    found = re.search(rf"{what}.*?peak (\S+) GB", lines)
    assert found
    return float(found[1]) * 1e9


@pytest.mark.parametrize("name", MODELS)
def test_a_verification_is_estimated_above_what_was_measured_and_not_far_above(name):
    measured, estimate = peak(name, "verification"), memory.of_verification(MODELS[name])
    assert measured < estimate < TOO_MUCH * measured + memory.PROCESS_BYTES


def test_an_embedding_is_estimated_above_what_was_measured_and_not_far_above():
    options = EmbeddingOptions(batch_size=2, gradient_checkpointing=True)
    measured, estimate = peak("sd15", "embedding step, training all"), memory.of_embedding(MODELS["sd15"], options)
    assert measured - A_PROCESS < estimate - memory.PROCESS_BYTES
    assert estimate < TOO_MUCH * measured


@given(DENOISERS, OPTIONS)
def test_no_estimate_is_beyond_what_a_database_can_hold(model, options):
    for estimate in (memory.of_embedding(model, options), memory.of_audit(model), memory.of_verification(model)):
        assert memory.PROCESS_BYTES <= estimate < 1 << 63


@given(DENOISERS, OPTIONS, st.integers(0, 1 << 20), st.integers(0, 64))
def test_a_larger_model_or_batch_never_needs_less(model, options, parameters, samples):
    larger = Denoiser(model.class_name, model.parameters + parameters, model.positions, model.text_parameters)
    more = options.model_copy(update={"batch_size": options.batch_size + samples})
    assert memory.of_embedding(model, options) <= memory.of_embedding(larger, more)
    assert memory.of_audit(model) <= memory.of_audit(larger)
    assert memory.of_verification(model) <= memory.of_verification(larger)


@given(DENOISERS, OPTIONS)
def test_training_needs_more_than_testing(model, options):
    assert memory.of_verification(model) <= min(memory.of_embedding(model, options), memory.of_audit(model))


def test_text_encoders_count_where_they_are_larger_than_the_training():
    options = EmbeddingOptions(batch_size=2, gradient_checkpointing=True)
    small = Denoiser("PixArtTransformer2DModel", 600_000_000, 64 * 64, 4_700_000_000)
    assert memory.of_embedding(small, options) > 4 * (600_000_000 + 4_700_000_000)
    assert memory.of_verification(small) < memory.of_embedding(small, options)


def test_of_an_unknown_model_nothing_is_estimated():
    assert memory.of_embedding(UNKNOWN, EmbeddingOptions()) is None
    assert memory.of_audit(UNKNOWN) is None
    assert memory.of_verification(UNKNOWN) is None
