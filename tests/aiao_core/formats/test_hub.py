import subprocess
import sys

import pytest
import torch

from aiao_core.errors import Canceled, HubUnavailable, InvalidReference
from aiao_core.formats.digests import sha256_path
from aiao_core.formats.hub import check_reference, choose, download
from aiao_core.formats.suspects import load_suspect
from aiao_core.progress import silent
from tests.support.families import make
from tests.support.hub import COMMIT, Hub, hub, use_hub
from tests.support.places import PROJECT
from tests.support.processes import free_port

REPOSITORY = "hf://someone/copied-model"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A hub with one repository: a pipeline with a fp16 variant, code and other things that nobody asked for."""
    folder = tmp_path / "hub" / "someone" / "copied-model"
    denoiser = make("SD").denoiser
    denoiser.save_pretrained(folder / "unet", max_shard_size="50KB")
    denoiser.save_pretrained(folder / "unet", variant="fp16")
    for name in ("modeling.py", "unet/evil.py", "vae/config.json", "vae/diffusion_pytorch_model.safetensors", "all.ckpt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("never fetched")
    with hub(tmp_path / "hub") as running:
        use_hub(monkeypatch, running.url)
        yield running


def fetch(reference: str, into, max_bytes: int = 1 << 30, progress=silent) -> str:
    return download(reference, into, max_bytes=max_bytes, progress=progress)


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_the_denoiser_alone_is_fetched_and_its_commit_is_told(served: Hub, tmp_path, monkeypatch, revision):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    steps = []
    assert fetch(REPOSITORY + revision, tmp_path / "into", progress=steps.append) == f"{REPOSITORY}@{COMMIT}"
    assert {name.partition("/")[0] for name in served.fetched} == {"unet"}
    assert not [name for name in served.fetched if ".py" in name or "fp16" in name]
    assert len(served.fetched) > 3
    assert [step.step for step in steps] == list(range(len(served.fetched)))
    assert sorted(file.relative_to(tmp_path / "into").as_posix() for file in (tmp_path / "into").rglob("*.*")) == sorted(
        served.fetched
    )
    assert served.tokens == []
    model = make("SD")
    suspect = load_suspect(tmp_path / "into", model.architecture)
    assert suspect.form == "sharded safetensors"
    assert all(torch.equal(value, model.denoiser.get_parameter(name)) for name, value in suspect.denoiser.named_parameters())
    fetch(REPOSITORY, tmp_path / "again")
    assert sha256_path(tmp_path / "into") == sha256_path(tmp_path / "again")


NEVER = ["model_index.json", "README.md", "run.py", "unet/run.py", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
STANDARD = "diffusion_pytorch_model"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([f"unet/{STANDARD}.safetensors", f"unet/{STANDARD}.bin", "sd.ckpt"], [f"unet/{STANDARD}.safetensors"]),
        ([f"unet/{STANDARD}{v}.safetensors" for v in ("", ".fp16", ".non_ema")], [f"unet/{STANDARD}.safetensors"]),
        ([f"unet/{STANDARD}{v}.safetensors" for v in (".non_ema", ".fp16")], [f"unet/{STANDARD}.fp16.safetensors"]),
        ([f"unet/{STANDARD}.fp16.bin", f"unet/{STANDARD}.bin"], [f"unet/{STANDARD}.bin"]),
        (["unet/config.json", f"unet/{STANDARD}.bin", "config.json"], ["unet/config.json", f"unet/{STANDARD}.bin"]),
        (
            [f"transformer/{STANDARD}-0000{n}-of-00002.safetensors" for n in (1, 2)]
            + [f"transformer/{STANDARD}.safetensors.index.json", f"transformer/{STANDARD}.fp16-00001-of-00002.safetensors"]
            + [f"transformer/{STANDARD}.safetensors.index.fp16.json"],
            [f"transformer/{STANDARD}-0000{n}-of-00002.safetensors" for n in (1, 2)]
            + [f"transformer/{STANDARD}.safetensors.index.json"],
        ),
        (["unet/openvino_model.bin", "unet/model.onnx", "big.safetensors"], ["big.safetensors"]),
        (["adapter_config.json", "adapter_model.safetensors", "x.py"], ["adapter_config.json", "adapter_model.safetensors"]),
        (["unet/adapter_config.json", "unet/adapter_model.bin"], ["unet/adapter_config.json", "unet/adapter_model.bin"]),
        (["a.gguf", "a.ckpt"], ["a.gguf"]),
        (["a.ckpt", "a.pt"], ["a.ckpt", "a.pt"]),
        (["a b (v2).safetensors", ".hidden.safetensors", "..\\x.safetensors"], ["a b (v2).safetensors"]),
        (["../a.safetensors", "unet/../../b.safetensors", "text_encoder/model.safetensors", "a.py"], []),
    ],
)
def test_which_files_are_chosen(names, chosen):
    assert sorted(choose(names + NEVER)) == sorted(chosen)


@pytest.mark.parametrize(
    "reference",
    [
        "hf://owner", "hf://owner/name/file", "hf://../name", "hf://owner/..", "hf://owner/name@../x", "hf://owner/name@",
        "hf://owner/name@a//b", "http://owner/name", "owner/name", "hf://owner/na me", "hf://owner/name\n", "hf://ö/name",
        "hf://owner/" + "x" * 300, "hf://owner/name?x=1", "hf://owner/name@main#x", "",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(reference, tmp_path):
    with pytest.raises(InvalidReference, match="one looks like hf://owner/name@main"):
        fetch(reference, tmp_path / "into")


@pytest.mark.parametrize("reference", ["hf://a/b", "hf://a-b.c/D_e-1.5@refs/pr/12", "hf://a/b@v1.0", f"hf://a/b@{COMMIT}"])
def test_references(reference):
    assert check_reference(reference) == reference


@pytest.mark.long
@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("hf://someone/nothing", "there is no public repository hf://someone/nothing; check the name"),
        (f"{REPOSITORY}@other", "no such revision; name a branch, tag or commit"),
        ("hf://someone/gated", "is gated.*download it with your own account and submit the files"),
        ("hf://someone/empty", "holds no weights of a denoiser"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_words(served: Hub, tmp_path, reference, words):
    for name in ("gated", "empty"):
        (served.root / "someone" / name).mkdir()
    (served.root / "someone" / "gated" / "lora.safetensors").write_bytes(b"secret")
    served.gated.add("someone/gated")
    with pytest.raises(InvalidReference, match=words):
        fetch(reference, tmp_path / "into")
    assert served.fetched == []


def test_more_than_the_limit_is_not_fetched(served: Hub, tmp_path):
    with pytest.raises(InvalidReference, match="more than the 1000 allowed here"):
        fetch(REPOSITORY, tmp_path / "into", max_bytes=1000)
    assert served.fetched == []


def test_a_download_stops_between_two_files(served: Hub, tmp_path):
    def stop(progress) -> None:
        if progress.step == 2:
            raise Canceled("enough")

    with pytest.raises(Canceled):
        fetch(REPOSITORY, tmp_path / "into", progress=stop)
    assert len(served.fetched) == 2


def test_no_network(tmp_path, monkeypatch):
    use_hub(monkeypatch, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(HubUnavailable, match=r"hub cannot be reached for hf://someone/copied-model .*submit its files"):
        fetch(REPOSITORY, tmp_path / "into")


@pytest.mark.process
def test_references_are_checked_without_the_hubs_library_and_without_torch():
    script = "import sys; import aiao_core.formats.hub; sys.exit('huggingface_hub' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=PROJECT).returncode == 0
