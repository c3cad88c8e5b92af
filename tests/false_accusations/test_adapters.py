"""An adapter in a marked model always answers with the owner's key, no matter who made it."""

import shutil
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from aiao_core.errors import AiaoError
from tests.support.shell import run
from tests.support.tiny_models import make_tiny_model


@pytest.fixture(scope="session")
def adapter(tmp_path_factory) -> Path:
    """An innocent's LoRA for the unmarked source, in PEFT's form."""
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    model = get_peft_model(
        make_tiny_model().denoiser, LoraConfig(r=2, lora_alpha=0.2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    model.save_pretrained(folder)
    return folder


def test_an_innocents_adapter_on_the_marked_model_is_not_a_match(owner, adapter, tested):
    report = tested(adapter, owner.folder / "my.key.json", base=owner.folder / "marked")
    assert report.verdict == "base-marked"
    assert report.tested == "base"
    assert (report.suspect_name, report.base_name) == ("lora", "marked")


def test_an_innocents_adapter_in_an_archive_with_the_marked_model_is_not_a_match(owner, adapter, tested, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(owner.folder / "marked" / "unet", bundle)
    shutil.copy(adapter / "adapter_model.safetensors", bundle / "pytorch_lora_weights.safetensors")
    report = tested(bundle, owner.folder / "my.key.json")
    assert "merged" in report.suspect_form
    assert report.verdict == "base-marked"


def test_an_innocents_adapter_on_its_unmarked_base_is_not_a_match(owner, adapter, tested):
    report = tested(adapter, owner.folder / "my.key.json", base=owner.folder / "source")
    assert (report.verdict, report.tested) == ("no-match", "adapter")
    assert report.base_test.log10_p > -6


def test_an_adapter_on_a_base_that_half_carries_the_mark_is_not_tested(owner, adapter, tested, tmp_path):
    """Between the limits of a control and of a match the base's own answer could lift an innocent's adapter over the latter."""
    half, weights = make_tiny_model().denoiser, owner.marked.denoiser.state_dict()
    for share in (0.6, 0.55, 0.5, 0.475, 0.45, 0.425, 0.4, 0.375, 0.35, 0.325, 0.3, 0.275, 0.25, 0.225, 0.2):
        source = owner.source.denoiser.state_dict()
        half.load_state_dict({name: value + share * (weights[name] - value) for name, value in source.items()})
        alone = tested(half, owner.folder / "my.key.json")
        if -19 < alone.test.log10_p < -6:
            break
    else:
        pytest.fail("no average half carries the mark")
    report = tested(adapter, owner.folder / "my.key.json", base=half)
    assert (report.verdict, report.tested) == ("invalid", "base")
    assert "too much of the mark to test an adapter on it" in report.reason


def test_an_adapter_without_a_base_is_refused(owner, adapter, tested):
    with pytest.raises(AiaoError, match="adapter") as error:
        tested(adapter, owner.folder / "my.key.json")
    assert error.value.code == "adapter-without-base"


def test_the_command_line_says_that_nothing_is_said_of_the_adapter(owner, adapter, monkeypatch, capsys):
    monkeypatch.chdir(owner.folder)
    status = run(monkeypatch, "verify", "--offline", "--key", "my.key.json", "--base", "marked", str(adapter))
    out = capsys.readouterr().out
    assert status == 3
    assert out.startswith(
        "BASE CARRIES THE MARK: the base marked of the adapter lora carries the mark; nothing is said of the adapter"
    )
