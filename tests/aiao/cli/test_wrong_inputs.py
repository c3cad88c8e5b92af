"""`aiao verify --offline` with a source or a key that is another one, or without a source: an error or what is lost is said."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from aiao_core.protocol import VERSION
from aiao_core.reports.verification import Report
from aiao_core.reports.words import NO_SOURCE, OLD_KEY
from tests.support import tiny
from tests.support.shell import run
from tests.support.tiny_models import fine_tuned, make_marked, make_tiny_model, save_pipeline


@pytest.fixture(scope="module")
def owned(tmp_path_factory, run_folder) -> Path:
    """A folder with a marked model, its source and its key, and with what is not these."""
    folder = tmp_path_factory.mktemp("owned")
    source, (marked, key) = make_tiny_model(), make_marked(run_folder)
    for name, model in (("source", source), ("marked", marked), ("other source", make_tiny_model(7))):
        save_pipeline(model, folder / name)
    save_pipeline(make_tiny_model(widths=(8, 24)), folder / "other architecture")
    weights = {name: value.contiguous() for name, value in fine_tuned(source).state_dict().items()}
    save_file(weights, folder / "relative.safetensors")
    document = json.loads(key.to_json())
    binding = document["binding"]
    others = {
        "later version": {"version": 4},
        "later protocol": {"binding": binding | {"protocol": VERSION + 1}},
        "another model's": {"binding": binding | {"source": "sha256:" + "0" * 64}},
        "older version": {"version": 2},
        "unbound": {"binding": None},
    }
    (folder / "my.key.json").write_text(key.to_json())
    for name, changes in others.items():
        (folder / f"{name}.key.json").write_text(json.dumps(document | changes))
    other = key.bound("sha256:" + "0" * 64, VERSION)
    (folder / "of another source.key.json").write_text(other.to_json())
    (folder / "of a later protocol.key.json").write_text(key.bound(binding["source"], VERSION + 1).to_json())
    return folder


@pytest.fixture
def offline(owned, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a verification in this process and returns its exit status and what it printed."""
    monkeypatch.chdir(owned)

    def offline(suspect: str, *options: str, key: str = "my.key.json") -> tuple[int, str, str]:
        return run(monkeypatch, "verify", "--offline", "--key", key, *options, suspect), *capsys.readouterr()

    return offline


NOT_THE_SOURCE = "this is not the key's source: its weights have the digest sha256:"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("other source", NOT_THE_SOURCE),
        ("relative.safetensors", NOT_THE_SOURCE),
        ("marked", NOT_THE_SOURCE),
        ("other architecture", "the source cannot be used: "),
        ("my.key.json", "the source cannot be used: "),
        ("nowhere", "nowhere does not exist"),
    ],
)
def test_a_source_that_is_not_the_registered_one_is_refused(offline, source, reason):
    status, out, err = offline("marked", "--source", source)
    assert (status, out) == (2, "")
    sentence = err.splitlines()[-1]
    assert sentence.startswith("error: ")
    assert reason in sentence
    assert ("name the model that was registered" in sentence) == (source != "nowhere")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("later version", "this key file is damaged or of an unknown version: version"),
        ("later protocol", "it has been altered"),
        ("of a later protocol", f"the key is not bound to version {VERSION} of the protocol, which this release tests by"),
        ("another model's", "it has been altered"),
        ("of another source", NOT_THE_SOURCE),
        ("older version", "a key has a binding since version 3, and none before"),
        ("unbound", "a key has a binding since version 3, and none before"),
    ],
)
def test_a_key_of_another_version_or_model_is_refused(offline, key, reason):
    status, out, err = offline("marked", "--source", "source", key=f"{key}.key.json")
    assert (status, out) == (2, "")
    assert reason in err.splitlines()[-1]
    assert "Traceback" not in err


def test_without_a_source_a_test_says_what_is_lost(offline, tmp_path):
    page, document = tmp_path / "report.html", tmp_path / "report.json"
    found = {}
    for given in ((), ("--source", "source")):
        _, _, err = offline("marked", *given, "--report", str(page), "--force")
        assert ("or else loses many bits" in err) == (not given)
        assert (NO_SOURCE[:40] in page.read_text()) == (not given)
        offline("marked", *given, "--report", str(document), "--force")
        found[given] = Report.from_json(document.read_text())
    without, with_source = found.values()
    assert (without.source_weights is None, with_source.source_weights is None) == (True, False)
    assert without.test.log10_p > with_source.test.log10_p


@pytest.mark.long
def test_a_test_of_an_older_key_says_that_it_can_be_read_out(tmp_path, monkeypatch, capsys):
    old = tiny.make_old(tmp_path)
    (tmp_path / "old.key.json").write_text(old.key.to_json())
    monkeypatch.chdir(tmp_path)
    arguments = ("verify", "--offline", "--key", "old.key.json", "--source", "source", "marked.safetensors")
    for option, said in ((), OLD_KEY), (("--json",), '"key_version": 2'):
        run(monkeypatch, *arguments, *option)
        assert said in capsys.readouterr().out
