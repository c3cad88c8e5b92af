"""`aiao verify --offline` on a tiny model: what an owner sees who has no service at all."""

import copy
import errno
import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from aiao._client import key_files as keyfile
from aiao_core.formats.archives import pack
from aiao_core.formats.digests import sha256_file
from aiao_core.key import OwnerKey
from aiao_core.options import VerificationOptions
from aiao_core.protocol import DRAWS
from aiao_core.reports.verification import Report
from demo_models.emoji.data import MODEL
from tests.support.hub import COMMIT, hub, use_hub
from tests.support.processes import free_port
from tests.support.shell import Done, Shell, refusal, run
from tests.support.tiny_models import make_marked, make_tiny_model

NUMBERS = {
    "verdict",
    "test",
    "triggered_alone",
    "untriggered",
    "vs_rate",
    "rs_rate",
    "decoys",
    "subpaths",
    "layers",
    "seed",
    "draws",
    "ways",
    "suspect_weights",
}


@pytest.fixture(scope="module")
def owned(tmp_path_factory, run_folder) -> Path:
    """A folder with an owner's key file, the marked model, and suspects that nobody has marked."""
    folder = tmp_path_factory.mktemp("owned")
    model, (marked, key) = make_tiny_model(), make_marked(run_folder)
    DDPMPipeline(marked.denoiser, marked.schedule.scheduler).save_pretrained(folder / "marked")
    (folder / "my.key.json").write_text(key.to_json())
    keyfile.save_secret(folder / "secret alone.json", key.secret, "mdl_1")
    weights = {name: value.contiguous() for name, value in model.denoiser.state_dict().items()}
    save_file(weights, folder / "suspect.safetensors")
    torch.save(weights, folder / "suspect.pt")
    DDPMPipeline(model.denoiser, model.schedule.scheduler).save_pretrained(folder / "pipeline")
    pack(folder / "pipeline", folder / "suspect.zip")
    torch.manual_seed(0)
    adapted = get_peft_model(copy.deepcopy(model.denoiser), LoraConfig(target_modules=["to_q"], init_lora_weights=False))
    adapted.save_pretrained(folder / "adapter")
    merged = {name: value.contiguous() for name, value in adapted.merge_and_unload().state_dict().items()}
    save_file(merged, folder / "merged.safetensors")
    first = next(iter(weights))
    save_file(weights | {first: torch.full_like(weights[first], torch.nan)}, folder / "nan.safetensors")
    save_file({name: value for name, value in weights.items() if name != first}, folder / "incomplete.safetensors")
    (folder / "text.safetensors").write_text("These are not the weights you are looking for.")
    altered = json.loads(key.to_json())
    altered["bits"] += 1
    (folder / "altered.json").write_text(json.dumps(altered))
    return folder


@pytest.fixture
def offline(owned, monkeypatch, capsys):
    """Runs a verification in this process and returns its exit status and what it printed."""
    monkeypatch.chdir(owned)

    def offline(suspect: str, *options: str, key: str = "my.key.json") -> tuple[int, str, str]:
        status = run(monkeypatch, "verify", "--offline", "--key", key, *options, suspect)
        return status, *capsys.readouterr()

    return offline


@pytest.fixture(scope="module")
def plain(owned) -> Report:
    """Of the suspect that nobody has marked."""
    arguments = ("verify", "--offline", "--key", "my.key.json", "suspect.safetensors", "--json")
    return Report.from_json(Shell(owned).aiao(*arguments, status=1).stdout)


@pytest.mark.process
def test_no_match_is_exit_status_1_and_the_same_key_and_weights_give_the_same_numbers(owned, plain):
    done = Shell(owned).process("verify", "--offline", "--key", "my.key.json", "suspect.safetensors", "--json", status=1)
    reports = [json.loads(text) for text in (done.stdout, plain.to_json())]
    assert {name: reports[0][name] for name in NUMBERS} == {name: reports[1][name] for name in NUMBERS}
    assert reports[0]["verdict"] == "no-match"
    assert (reports[0]["draws"], len(reports[0]["decoys"]), reports[0]["registration"]) == (DRAWS, 8, "key-file")
    assert done.stderr == ""
    assert OwnerKey.from_json((owned / "my.key.json").read_text()).secret not in done.stdout


def test_a_match_is_exit_status_0(offline):
    status, out, _ = offline("marked", "--source", "pipeline")
    assert status == 0
    assert out.startswith("MATCH: marked answers with the owner's key\n")
    assert Report.from_json(offline("marked", "--json", "--source", "pipeline")[1]).tests is None  # offline nobody counts


def test_people_read_the_verdict_and_scripts_the_same_figures(offline, plain):
    status, out, err = offline("suspect.safetensors")
    report = plain
    assert status == 1
    assert out.startswith("NO MATCH: the owner's watermark was not found in suspect.safetensors\n")
    assert f"{report.test.matches} of {report.test.bits}" in out
    assert f"{report.test.log10_p:.2f}" in out
    assert "best of 8 decoy keys" in out
    assert "verify: draws" in err
    assert "verify: decoys" in err
    assert "queued" not in err


EXPLORATIONS = [
    (["--seed", "7"], {"seed": 7}),
    (["--draws", "9"], {"draws": 9}),
    (["--decoys", "3"], {"decoys": 3}),
    (["--seed", "7", "--draws", "9", "--decoys", "3"], {"seed": 7, "draws": 9, "decoys": 3}),
]


@pytest.mark.parametrize(("arguments", "chosen"), EXPLORATIONS, ids=str)
@pytest.mark.parametrize("suspect", ["suspect.safetensors", "marked"])
def test_a_test_by_other_rules_is_no_verdict_and_exit_status_3(offline, tmp_path, suspect, arguments, chosen):
    status, out, _ = offline(suspect, *arguments, "--report", str(tmp_path / "report.json"))
    reasons = "; ".join(VerificationOptions(**chosen).departures())
    assert status == 3
    assert out.startswith(f"EXPLORATORY, NOT A VERDICT: the test of {suspect} did not keep the rules of a verdict: {reasons}\n")
    report = Report.from_json((tmp_path / "report.json").read_text())
    assert (report.verdict, report.reason) == ("exploratory", reasons)
    found = {"seed": report.seed, "draws": report.draws, "decoys": len(report.decoys)}
    assert {name: found[name] for name in chosen} == chosen


def test_the_rules_may_be_named_as_they_are(offline):
    assert offline("suspect.safetensors", "--draws", str(DRAWS), "--decoys", "8")[0] == 1


def test_another_seed_explores_with_other_draws_and_the_same_one_with_the_same(offline, plain):
    done = [offline("suspect.safetensors", "--json", "--seed", seed) for seed in ("7", "8", "7")]
    assert [status for status, _, _ in done] == [3, 3, 3]
    first, other, again = (Report.from_json(document) for _, document, _ in done)
    assert len({first.seed, other.seed, plain.seed}) == 3
    assert first.decoys != other.decoys
    assert {name: getattr(first, name) for name in NUMBERS} == {name: getattr(again, name) for name in NUMBERS}


@pytest.mark.parametrize("suspect", ["suspect.pt", "suspect.zip", "pipeline"])
def test_every_form_of_the_same_weights_has_the_same_numbers(offline, plain, suspect):
    """Another packing of one model is not another throw of the dice."""
    other = Report.from_json(offline(suspect, "--json")[1])
    assert {name: getattr(plain, name) for name in NUMBERS} == {name: getattr(other, name) for name in NUMBERS}
    assert (other.suspect_name, other.inputs[0].name) == (suspect, suspect)


@pytest.mark.parametrize("base", ["suspect.zip", "pipeline", "suspect.pt"])
def test_an_adapter_is_tested_on_its_base_and_the_base_before_it(offline, base):
    status, document, _ = offline("adapter", "--json", "--base", base)
    report = Report.from_json(document)
    assert (status, report.verdict, report.tested) == (1, "no-match", "adapter")
    assert report.base_name == base
    assert report.base_test.bits == report.test.bits
    assert report.base_test.log10_p > -6
    assert [(entry.role, entry.name) for entry in report.inputs] == [("suspect", "adapter"), ("base", base)]
    assert report.suspect_form.startswith(f"base: {base} (")
    assert "PEFT LoRA" in report.suspect_form
    unused = Report.from_json(offline("merged.safetensors", "--json", "--base", base)[1])
    assert (unused.tested, unused.base_test) == ("checkpoint", None)
    assert [entry.role for entry in unused.inputs] == ["suspect"]


def test_an_adapter_reads_as_the_model_that_it_makes(offline):
    """With the same draws; those of a verdict follow from what was submitted, which differs."""
    reports = [Report.from_json(offline(*these, "--json", "--seed", "7")[1]) for these in (
        ("merged.safetensors",), ("adapter", "--base", "pipeline"),
    )]  # fmt: skip
    assert [report.tested for report in reports] == ["checkpoint", "adapter"]
    assert reports[0].ways == reports[1].ways


def test_of_an_adapter_on_the_marked_model_nothing_is_said(offline):
    status, out, err = offline("adapter", "--base", "marked")
    assert status == 3
    sentence = "the base marked of the adapter adapter carries the mark; nothing is said of the adapter"
    assert out.startswith(f"BASE CARRIES THE MARK: {sentence}\n")
    assert "verify: base: draws" in err
    assert "verify: draws" not in err  # the adapter was not tested at all


def test_another_source_than_the_one_that_the_key_is_bound_to_is_refused(offline):
    status, out, err = offline("suspect.safetensors", "--source", "marked")
    assert (status, out) == (2, "")
    assert "this is not the key's source" in err


def test_a_repository_of_the_hub(owned, offline, plain, tmp_path, monkeypatch):
    repository = tmp_path / "someone" / "copied-model"
    repository.mkdir(parents=True)
    (repository / "suspect.safetensors").write_bytes((owned / "suspect.safetensors").read_bytes())
    with hub(tmp_path) as running:
        use_hub(monkeypatch, running.url)
        status, document, err = offline("hf://someone/copied-model", "--json")
    assert status == 1
    found = Report.from_json(document)
    assert {name: getattr(plain, name) for name in NUMBERS} == {name: getattr(found, name) for name in NUMBERS}
    assert found.suspect_name == found.inputs[0].name == f"hf://someone/copied-model@{COMMIT}/suspect.safetensors"
    assert found.inputs[0].sha256 == sha256_file(owned / "suspect.safetensors")  # as the hub itself shows it
    assert "Downloading" not in err


@pytest.mark.parametrize("name", ["someone/copied-model", "hf.co/someone/copied-model"])
def test_a_repository_by_its_name_where_no_such_file_is(owned, offline, tmp_path, monkeypatch, name):
    suspect, key = (owned / "suspect.safetensors").read_bytes(), str(owned / "my.key.json")
    (tmp_path / "hub" / "someone" / "copied-model").mkdir(parents=True)
    (tmp_path / "hub" / "someone" / "copied-model" / "suspect.safetensors").write_bytes(suspect)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with hub(tmp_path / "hub") as running:
        use_hub(monkeypatch, running.url)
        status, _, err = offline(name, key=key)
        assert status == 1
        assert f"There is no file {name} here; hf://someone/copied-model on the Hugging Face hub is tested." in err
        running.asked.clear()
        Path(name).parent.mkdir(parents=True)
        assert f"{name} does not exist; if a repository of the Hugging Face hub is meant" in offline(name, key=key)[2]
        Path(name).write_bytes(suspect)
        assert offline(name, key=key)[0] == 1
        assert running.asked == []


def test_no_network(offline, monkeypatch):
    use_hub(monkeypatch, f"http://127.0.0.1:{free_port()}")
    done = Done(*offline("hf://someone/copied-model"))
    assert done.status == 2
    reason = refusal(done)
    assert "the Hugging Face hub cannot be reached for hf://someone/copied-model" in reason
    assert "submit its files" in reason


def test_the_report_is_saved(offline, tmp_path):
    for form in ("html", "json"):
        status, out, err = offline("suspect.safetensors", "--json", "--report", str(tmp_path / f"report.{form}"))
        assert status == 1
        assert err.endswith(f"report.{form}\n")
    assert (tmp_path / "report.json").read_text() == out
    page = (tmp_path / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "suspect.safetensors" in page


def test_the_verdict_is_shown_even_if_the_report_cannot_be_saved(offline, tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    status, out, err = offline("suspect.safetensors", "--report", str(tmp_path / "report.html"))
    assert status == 2
    assert out.startswith("NO MATCH: ")
    assert "No space left on device" in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("suspect", "key", "reason"),
    [
        ("nowhere.safetensors", "my.key.json", "nowhere.safetensors does not exist"),
        ("adapter", "my.key.json", "the suspect is an adapter, which changes a base model; name that one with --base"),
        ("hf://someone", "my.key.json", "one looks like hf://owner/name@main"),
        ("https://civitai.com/models/1", "my.key.json", "civitai.com is not the Hugging Face hub"),
        ("out/suspect.safetensors", "my.key.json", "out/suspect.safetensors does not exist"),
        ("nan.safetensors", "my.key.json", "holds NaN or infinite values"),
        ("incomplete.safetensors", "my.key.json", "is missing"),
        ("text.safetensors", "my.key.json", "text.safetensors: this is a short text"),
        (str(MODEL), "my.key.json", "of another architecture"),
        ("my.key.json", "my.key.json", "my.key.json: this is JSON"),
        ("suspect.safetensors", "secret alone.json", "run: aiao key complete secret alone.json"),
        ("suspect.safetensors", "altered.json", "it has been altered"),
        ("suspect.safetensors", "suspect.pt", "suspect.pt cannot be read"),
        ("suspect.safetensors", "missing.json", "missing.json cannot be read"),
    ],
)
def test_what_cannot_be_tested_is_an_error_in_a_sentence_and_no_verdict(offline, suspect, key, reason):
    status, out, err = offline(suspect, key=key)
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    sentence = err.splitlines()[-1]
    assert sentence.startswith("error: ")
    assert reason in sentence


HINT = "Name the model before the watermark with --source: the key is read against it, or else loses many bits."


@pytest.mark.parametrize("suspect", ["suspect.safetensors", "marked"])
def test_who_did_not_name_the_source_is_told_to(offline, suspect):
    assert HINT in offline(suspect)[2].splitlines()
    assert HINT not in offline(suspect, "--source", "pipeline")[2]
    assert offline(suspect, "--json")[2] == ""


def test_channels_are_looked_for_where_the_source_has_them(owned, offline):
    plain = Report.from_json(offline("suspect.zip", "--json", "--seed", "7")[1])
    aligned = Report.from_json(offline("suspect.zip", "--json", "--seed", "7", "--source", "pipeline")[1])
    assert (plain.strayed_channels, aligned.strayed_channels) == (None, 0)
    assert [way.counts for way in aligned.ways] == [
        False,
        True,
    ] * 2  # those specific to the triggers, with the source too: the key is bound to it
    assert [entry.role for entry in aligned.inputs] == ["suspect", "source"]
