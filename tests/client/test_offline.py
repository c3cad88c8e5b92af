"""`aiao verify --offline` on untrained models: what an owner sees who has no service at all."""

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from aiao_core.archives import pack
from aiao_core.key import OwnerKey
from aiao_core.report import Report
from aiao_core.selection import select_key
from aiao_core.training import Examples
from client import keyfile
from examples.emoji.data import MODEL, load_images
from tests.aiao_core.conftest import QUICK, make_tiny_model
from tests.client.conftest import Shell, run
from tests.hub import COMMIT, hub
from tests.processes import free_port

SEED = bytes(range(32))
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
}


@pytest.fixture(scope="module")
def owned(tmp_path_factory) -> Path:
    """A folder with an owner's key file and some suspects that nobody has marked."""
    folder = tmp_path_factory.mktemp("owned")
    model = make_tiny_model()
    key = select_key(model, SEED, Examples(load_images(without=["Flags"], size=8)[:64], {}), QUICK)
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
        status = run(monkeypatch, "verify", "--offline", "--key", key, "--draws", "8", "--decoys", "3", *options, suspect)
        return status, *capsys.readouterr()

    return offline


def test_no_match_is_exit_status_1_and_the_same_seed_gives_the_same_numbers(owned, offline):
    arguments = ["verify", "--offline", "--key", "my.key.json", "--seed", "7", "--draws", "8", "--decoys", "3"]
    done = Shell(owned).aiao(*arguments, "suspect.safetensors", "--json", status=1)
    reports = [json.loads(text) for text in (done.stdout, offline("suspect.safetensors", "--seed", "7", "--json")[1])]
    assert {name: reports[0][name] for name in NUMBERS} == {name: reports[1][name] for name in NUMBERS}
    assert reports[0]["verdict"] == "no-match"
    assert (reports[0]["seed"], reports[0]["draws"], len(reports[0]["decoys"])) == (7, 8, 3)
    assert done.stderr == ""
    assert OwnerKey.from_json((owned / "my.key.json").read_text()).secret not in done.stdout


def test_people_read_the_verdict_and_scripts_the_same_figures(offline):
    status, out, err = offline("suspect.safetensors", "--seed", "7")
    report = Report.from_json(offline("suspect.safetensors", "--seed", "7", "--json")[1])
    assert status == 1
    assert out.startswith("NO MATCH: ")
    assert f"{report.test.matches} of {report.test.bits}" in out
    assert f"{report.test.log10_p:.2f}" in out
    assert "best of 3 decoy keys" in out
    assert "verify: draws" in err
    assert "verify: decoys" in err
    assert "name the model before the watermark with --source" in err
    assert "queued" not in err


def test_another_seed_gives_other_draws_and_no_seed_a_random_one(offline):
    reports = [
        Report.from_json(offline("suspect.safetensors", "--json", *seed)[1]) for seed in (["--seed", "7"], ["--seed", "8"], [])
    ]
    assert len({report.seed for report in reports}) == 3
    assert reports[0].decoys != reports[1].decoys
    again = Report.from_json(offline("suspect.safetensors", "--json", "--seed", str(reports[2].seed))[1])
    assert again.decoys == reports[2].decoys


@pytest.mark.parametrize("suspect", ["suspect.pt", "suspect.zip", "pipeline"])
def test_every_form_of_the_same_weights_has_the_same_numbers(offline, suspect):
    plain = Report.from_json(offline("suspect.safetensors", "--json", "--seed", "7")[1])
    other = Report.from_json(offline(suspect, "--json", "--seed", "7")[1])
    assert {name: getattr(plain, name) for name in NUMBERS} == {name: getattr(other, name) for name in NUMBERS}
    assert (other.suspect_name, other.inputs[0].name) == (suspect, suspect)


@pytest.mark.parametrize("base", ["suspect.zip", "pipeline", "suspect.pt"])
def test_an_adapter_is_tested_on_its_base(offline, base):
    alone = Report.from_json(offline("merged.safetensors", "--json", "--seed", "7")[1])
    report = Report.from_json(offline("adapter", "--json", "--seed", "7", "--base", base)[1])
    assert report.test == alone.test
    assert [(entry.role, entry.name) for entry in report.inputs] == [("suspect", "adapter"), ("base", base)]
    assert report.suspect_form.startswith(f"base: {base} (")
    assert "PEFT LoRA" in report.suspect_form
    unused = Report.from_json(offline("merged.safetensors", "--json", "--seed", "7", "--base", base)[1])
    assert [entry.role for entry in unused.inputs] == ["suspect"]


def test_a_repository_of_the_hub(owned, offline, tmp_path):
    repository = tmp_path / "someone" / "copied-model"
    repository.mkdir(parents=True)
    (repository / "suspect.safetensors").write_bytes((owned / "suspect.safetensors").read_bytes())
    arguments = ["verify", "--offline", "--key", "my.key.json", "--draws", "8", "--decoys", "3", "--seed", "7", "--json"]
    with hub(tmp_path) as running:
        shell = Shell(owned, HF_ENDPOINT=running.url)
        done = shell.aiao(*arguments, "hf://someone/copied-model", status=1)
    plain = Report.from_json(offline("suspect.safetensors", "--json", "--seed", "7")[1])
    found = Report.from_json(done.stdout)
    assert {name: getattr(plain, name) for name in NUMBERS} == {name: getattr(found, name) for name in NUMBERS}
    assert found.suspect_name == found.inputs[0].name == f"hf://someone/copied-model@{COMMIT}"
    assert "Downloading" not in done.stderr


def test_no_network(owned):
    shell = Shell(owned, HF_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    reason = shell.error("verify", "--offline", "--key", "my.key.json", "hf://someone/copied-model")
    assert "the Hugging Face hub cannot be reached for hf://someone/copied-model" in reason
    assert "submit its files" in reason


def test_the_report_is_saved(offline, tmp_path):
    for form in ("html", "json"):
        status, out, err = offline("suspect.safetensors", "--seed", "7", "--json", "--report", str(tmp_path / f"report.{form}"))
        assert status == 1
        assert err.endswith(f"report.{form}\n")
    assert (tmp_path / "report.json").read_text() == out
    page = (tmp_path / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "suspect.safetensors" in page


def test_the_verdict_is_shown_even_if_the_report_cannot_be_saved(offline, tmp_path):
    (tmp_path / "folder.html").mkdir()
    status, out, err = offline("suspect.safetensors", "--report", str(tmp_path / "folder.html"))
    assert status == 2
    assert out.startswith("NO MATCH: ")
    assert "folder.html" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("suspect", "key", "reason"),
    [
        ("nowhere.safetensors", "my.key.json", "nowhere.safetensors does not exist"),
        ("adapter", "my.key.json", "the suspect is an adapter, which changes a base model; name that one with --base"),
        ("hf://someone", "my.key.json", "one looks like hf://owner/name@main"),
        ("nan.safetensors", "my.key.json", "holds NaN or infinite values"),
        ("incomplete.safetensors", "my.key.json", "is missing"),
        ("text.safetensors", "my.key.json", "text.safetensors is no complete safetensors file"),
        (str(MODEL), "my.key.json", "of another architecture"),
        ("my.key.json", "my.key.json", "my.key.json is no complete safetensors file"),
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


def test_who_named_the_source_is_not_told_to(offline):
    status, _, err = offline("suspect.safetensors", "--source", "pipeline")
    assert status == 1
    assert "--source" not in err


def test_permuted_channels_are_undone_by_the_source(owned, offline):
    plain = Report.from_json(offline("suspect.zip", "--json", "--seed", "7")[1])
    aligned = Report.from_json(offline("suspect.zip", "--json", "--seed", "7", "--source", "pipeline")[1])
    assert (plain.strayed_channels, aligned.strayed_channels) == (None, 0)
    assert aligned.test == plain.test
    assert [entry.role for entry in aligned.inputs] == ["suspect", "source"]
