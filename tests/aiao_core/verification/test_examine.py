"""One examination for the service and for owners: what it reads, in which order, and what its report lists."""

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from aiao_core.errors import AdapterWithoutBase, InvalidCheckpoint, WrongArchitecture
from aiao_core.formats.archives import Limits, pack
from aiao_core.formats.digests import sha256_path
from aiao_core.key import OwnerKey
from aiao_core.method.key_selection import select_key
from aiao_core.reports.parts import BitTest, Input
from aiao_core.reports.verification import Counts
from aiao_core.verification import examine as module
from aiao_core.verification.examine import Material, ServiceRecord, examine, examine_files, read_in_process
from tests.support.families import make
from tests.support.tiny_models import QUICK, make_tiny_examples, make_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A source and an innocent suspect, as files, an adapter, and a model of another architecture."""
    folder = tmp_path_factory.mktemp("examined")
    for seed, name in ((0, "source"), (1, "suspect")):
        model = make_tiny_model(seed)
        DDPMPipeline(model.denoiser, model.schedule.scheduler).save_pretrained(folder / name)
        save_file({layer: each.contiguous() for layer, each in model.denoiser.state_dict().items()}, folder / f"{name}.weights")
    pack(folder / "suspect", folder / "suspect.zip")
    shutil.copytree(folder / "suspect" / "unet", folder / "bundle")
    torch.manual_seed(0)
    denoiser = copy.deepcopy(make_tiny_model().denoiser)
    get_peft_model(denoiser, LoraConfig(target_modules=["to_q"], init_lora_weights=False)).save_pretrained(folder / "adapter")
    shutil.copy(folder / "adapter" / "adapter_model.safetensors", folder / "bundle" / "adapter.safetensors")
    save_file({name: each.contiguous() for name, each in make("SD").denoiser.state_dict().items()}, folder / "other.weights")
    return folder


@pytest.fixture(scope="module")
def key() -> OwnerKey:
    return select_key(make_tiny_model(), bytes(range(32)), make_tiny_examples(), QUICK)


def roles(report) -> list[tuple[str, str]]:
    return [(entry.role, entry.name) for entry in report.inputs]


@pytest.mark.long
def test_what_was_used_is_listed_by_its_digest_and_nothing_else(folder, key):
    report = examine_files(folder / "suspect.zip", key, base=folder / "source.weights", source=folder / "source")
    assert roles(report) == [("suspect", "suspect.zip"), ("source", "source")]
    assert [entry.sha256 for entry in report.inputs] == [sha256_path(folder / "suspect.zip"), sha256_path(folder / "source")]
    assert (report.registration, report.tested, report.tests, report.panel) == ("key-file", "checkpoint", None, None)
    report = examine_files(str(folder / "adapter"), key, base=folder / "source.weights")
    assert roles(report) == [("suspect", "adapter"), ("base", "source.weights")]
    assert (report.tested, report.base_name, report.source_test) == ("adapter", "source.weights", None)
    report = examine_files(folder / "bundle", key, base=folder / "source.weights")
    assert roles(report) == [("suspect", "bundle")]  # its adapter changes the denoiser beside it
    assert (report.tested, report.base_name) == ("adapter", "diffusion_pytorch_model.safetensors")


def test_a_record_of_the_service_counts_between_reading_and_testing(folder, key):
    events: list[str] = []

    @contextmanager
    def span(name: str) -> Iterator[None]:
        events.append(name)
        yield
        events.append(f"{name}: end")

    def count(weights: str) -> Counts:
        events.append(weights)
        return Counts(with_key=3, of_file=2)

    published = Input(role="watermarked", name="the published model", sha256="1" * 64)
    report = examine(
        Material("s", lambda: folder / "suspect.weights", "2" * 64),
        key,
        base=Material.at(folder / "source"),
        source=Material("o", lambda: folder / "source", "3" * 64),
        record=ServiceRecord("a model", published, (BitTest.of(500, 1000),), count),
        span=span,
    )
    assert events == [
        "read suspect", "read suspect: end", report.suspect_weights, "run", "read source", "read source: end", "run: end"
    ]  # fmt: skip
    assert [(entry.role, entry.name, entry.sha256[0]) for entry in report.inputs] == [
        ("suspect", "s", "2"), ("watermarked", "the published model", "1"), ("source", "o", "3")
    ]  # fmt: skip
    assert (report.registration, report.model_name, report.suspect_name) == ("service", "a model", "s")
    assert (report.tests, report.panel) == (Counts(with_key=3, of_file=2), (BitTest.of(500, 1000),))


@pytest.mark.long
@pytest.mark.parametrize("source", ["source", "source.weights"])
def test_a_source_has_the_same_numbers_in_every_form(folder, key, source):
    expected = examine_files(folder / "suspect.zip", key, source=folder / "source")
    found = examine_files(folder / "suspect.weights", key, source=folder / source)
    assert found.ways == expected.ways
    assert found.source_weights == expected.source_weights
    assert found.source_test == expected.source_test


def test_another_reader_is_asked_with_the_base(folder, key):
    asked = []

    def read(suspect, like, base):
        asked.append((suspect, like, base))
        return read_in_process(suspect, like, base)

    examine(Material.at(folder / "adapter"), key, base=Material.at(folder / "source"), read=read)
    examine(Material.at(folder / "suspect"), key, read=read)
    assert asked == [
        (folder / "adapter", key.architecture, (folder / "source", "source")),
        (folder / "suspect", key.architecture, None),
    ]


def test_limits_hold_for_the_suspect_the_base_and_the_source(folder, key, monkeypatch):
    given = []
    for name in ("load_suspect", "base_in", "load_source"):
        real = getattr(module, name)

        def noting(*arguments, real=real):
            given.extend(each for each in arguments if isinstance(each, Limits))
            return real(*arguments)

        monkeypatch.setattr(module, name, noting)
    limits = Limits(files=100)
    source = Material.at(folder / "source")
    examine(Material.at(folder / "adapter"), key, base=source, source=source, limits=limits)
    assert given == [limits] * 3


def test_what_cannot_be_examined(folder, key):
    for missing in ({"base": folder / "no"}, {"source": folder / "no"}):
        with pytest.raises(InvalidCheckpoint, match="no does not exist"):
            examine_files(folder / "suspect", key, **missing)
    with pytest.raises(InvalidCheckpoint, match="no does not exist"):
        examine_files(folder / "no", key)
    with pytest.raises(AdapterWithoutBase, match="name the model that it was made for"):
        examine_files(folder / "adapter", key)
    with pytest.raises(WrongArchitecture, match=r"the source cannot be used: .*; name the model that was registered"):
        examine_files(folder / "suspect", key, source=folder / "other.weights")
    with pytest.raises(InvalidCheckpoint, match=r"the source cannot be used: this is an adapter") as error:
        examine_files(folder / "suspect", key, source=folder / "adapter")
    assert not isinstance(error.value, AdapterWithoutBase)
