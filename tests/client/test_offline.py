"""`aiao verify --offline` on untrained models: what an owner sees who has no service at all."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
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
    key, _ = select_key(model, SEED, Examples(load_images(without=["Flags"], size=8)[:64], {}), QUICK)
    (folder / "my.key.json").write_text(key.to_json())
    keyfile.save_secret(folder / "secret alone.json", key.secret, "mdl_1")
    weights = {name: value.contiguous() for name, value in model.denoiser.state_dict().items()}
    save_file(weights, folder / "suspect.safetensors")
    torch.save(weights, folder / "suspect.pt")
    DDPMPipeline(model.denoiser, model.schedule.scheduler).save_pretrained(folder / "pipeline")
    pack(folder / "pipeline", folder / "suspect.zip")
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
