"""The estimates against what was measured (benchmarks/results/full_size.txt), and against themselves."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core import sizing
from aiao_core.denoisers import family_named
from aiao_core.options import EmbeddingOptions
from aiao_core.sizing import UNKNOWN, DenoiserSize
from tests.support.families import CONFIGURATIONS
from tests.support.places import PROJECT

MEASURED = (PROJECT / "benchmarks/results/full_size.txt").read_text()
MODELS = {
    "sd15": DenoiserSize("UNet2DConditionModel", 859_520_964, 64 * 64, 123_060_480),
    "sdxl": DenoiserSize("UNet2DConditionModel", 2_567_463_684, 128 * 128, 817_720_320),
    "sd3-medium": DenoiserSize("SD3Transformer2DModel", 2_028_328_000, 128 * 128, 5_580_000_000),
}
A_PROCESS = 0.54e9
"""What it takes before it has any weights (benchmarks/results/memory.txt)."""

TOO_MUCH = 1.35
"""By how much an estimate may be above what was measured, on models of this size."""

CONFIGURED = sorted({denoiser.__name__ for denoiser, _ in CONFIGURATIONS.values()})
DENOISERS = st.builds(
    DenoiserSize,
    st.sampled_from([*CONFIGURED, ""]),
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
    measured, estimate = peak(name, "verification"), sizing.of_verification(MODELS[name])
    assert measured < estimate < TOO_MUCH * measured + sizing.PROCESS_BYTES


def test_an_embedding_is_estimated_above_what_was_measured_and_not_far_above():
    options = EmbeddingOptions(batch_size=2, gradient_checkpointing=True)
    measured, estimate = peak("sd15", "embedding step, training all"), sizing.of_embedding(MODELS["sd15"], options)
    assert measured - A_PROCESS < estimate - sizing.PROCESS_BYTES
    assert estimate < TOO_MUCH * measured


@given(DENOISERS, OPTIONS)
def test_no_estimate_is_beyond_what_a_database_can_hold(model, options):
    for estimate in (sizing.of_embedding(model, options), sizing.of_audit(model), sizing.of_verification(model)):
        assert sizing.PROCESS_BYTES <= estimate < 1 << 63


@given(DENOISERS, OPTIONS, st.integers(0, 1 << 20), st.integers(0, 64))
def test_a_larger_model_or_batch_never_needs_less(model, options, parameters, samples):
    larger = DenoiserSize(model.class_name, model.parameters + parameters, model.positions, model.text_parameters)
    more = options.model_copy(update={"batch_size": options.batch_size + samples})
    assert sizing.of_embedding(model, options) <= sizing.of_embedding(larger, more)
    assert sizing.of_audit(model) <= sizing.of_audit(larger)
    assert sizing.of_verification(model) <= sizing.of_verification(larger)


@given(DENOISERS, OPTIONS)
def test_training_needs_more_than_testing(model, options):
    assert sizing.of_verification(model) <= min(sizing.of_embedding(model, options), sizing.of_audit(model))


def test_text_encoders_count_where_they_are_larger_than_the_training():
    options = EmbeddingOptions(batch_size=2, gradient_checkpointing=True)
    small = DenoiserSize("PixArtTransformer2DModel", 600_000_000, 64 * 64, 4_700_000_000)
    assert sizing.of_embedding(small, options) > 4 * (600_000_000 + 4_700_000_000)
    assert sizing.of_verification(small) < sizing.of_embedding(small, options)


def test_of_an_unknown_model_nothing_is_estimated():
    assert sizing.of_embedding(UNKNOWN, EmbeddingOptions()) is None
    assert sizing.of_audit(UNKNOWN) is None
    assert sizing.of_verification(UNKNOWN) is None


@pytest.mark.parametrize("class_name", CONFIGURED)
def test_every_family_states_its_activations_in_its_class_and_the_estimates_read_them_there(class_name):
    expected = 60 if class_name == "FluxTransformer2DModel" else 30
    assert sizing.activation_bytes(class_name) == family_named(class_name).activation_bytes == expected


THIRD_PARTY = """
import torch  # is not read
from elsewhere import Transformer, other

class Family:
    denoiser = Transformer
    activation_bytes = 45

class OfAnotherModule:
    denoiser = other.UNet
    activation_bytes = 55

class Silent:
    denoiser = other.Silent

class Computed:
    denoiser = other.Computed
    activation_bytes = 40 + 5

class Unrelated:
    activation_bytes = 1
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution with one module of families, which raises an error as soon as a part of it is imported."""

    def install(module: str | None) -> None:
        package, info = tmp_path / "of_a_third_party", tmp_path / "of_a_third_party-1.dist-info"
        package.mkdir()
        info.mkdir()
        (package / "__init__.py").write_text("raise ImportError('was imported')")
        if module is not None:
            (package / "families.py").write_text(module)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: of-a-third-party\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[aiao.denoisers]\nfamily = of_a_third_party.families:Family\n")
        monkeypatch.syspath_prepend(tmp_path)
        sizing._stated.cache_clear()

    yield install
    monkeypatch.undo()
    sizing._stated.cache_clear()


def test_the_family_of_a_third_party_is_sized_by_what_its_class_states_without_an_import(installed):
    before = sizing.of_audit(DenoiserSize("Transformer", 10**6, 64, 0))
    installed(THIRD_PARTY)
    names = ("Transformer", "UNet", "Silent", "Computed", "Unrelated", "UNet2DModel")
    assert [sizing.activation_bytes(name) for name in names] == [45, 55, 60, 60, 60, 30]
    assert "of_a_third_party" not in sys.modules
    after = sizing.of_audit(DenoiserSize("Transformer", 10**6, 64, 0))
    assert before - after == (60 - 45) * 64 * 1000 * sizing.AUDIT_SAMPLES


def test_an_entry_point_that_leads_nowhere_is_named(installed):
    installed(None)
    with pytest.raises(ModuleNotFoundError, match=r"no module of_a_third_party\.families, which an entry point"):
        sizing.activation_bytes("UNet2DModel")
