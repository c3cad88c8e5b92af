import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from aiao_core.errors import Canceled, HubUnavailable, InvalidReference
from aiao_core.formats.archives import pack
from aiao_core.formats.digests import sha256_path
from aiao_core.formats.hub import Download, download
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


def fetch(reference: str, into, max_bytes: int = 1 << 30, progress=silent) -> Download:
    return download(reference, into, max_bytes=max_bytes, progress=progress)


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_the_denoiser_alone_is_fetched_and_its_commit_is_told(served: Hub, tmp_path, monkeypatch, revision):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    steps = []
    fetched = fetch(REPOSITORY + revision, tmp_path / "into", progress=steps.append)
    assert fetched == Download(f"{REPOSITORY}@{COMMIT}", tmp_path / "into")
    assert served.looked_at == []
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


def a_file(path, *tensors: str) -> None:
    """A safetensors file with these tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.ones(1) for name in tensors}, path)


def one_of_several(running: Hub) -> None:
    """A repository as image programs want it: quantizations of one model in a folder, and what they need beside these."""
    folder = running.root / "someone" / "flux"
    a_file(folder / "ae.safetensors", "decoder.conv_in.weight")
    for name in ("Q8_0", "F16"):
        a_file(folder / f"flux {name}.gguf", name)
    a_file(folder / "loras" / "adapter_model.safetensors", "lora_unet_x.lora_down.weight")
    (folder / "loras" / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("place", "files", "name"),
    [
        ("hf://someone/flux/flux%20F16.gguf", ["flux F16.gguf"], "flux%20F16.gguf"),
        ("hf://someone/flux@main/flux F16.gguf", ["flux F16.gguf"], "flux%20F16.gguf"),
        ("https://huggingface.co/someone/flux/blob/main/flux%20F16.gguf", ["flux F16.gguf"], "flux%20F16.gguf"),
        ("https://hf.co/someone/flux/resolve/main/ae.safetensors?download=true", ["ae.safetensors"], "ae.safetensors"),
        ("hf://someone/flux/loras", ["loras/adapter_config.json", "loras/adapter_model.safetensors"], "loras"),
    ],
)
def test_a_file_or_folder_that_is_named_is_fetched_and_nothing_else(served: Hub, tmp_path, place, files, name):
    one_of_several(served)
    fetched = fetch(place, tmp_path / "into")
    assert sorted(served.fetched) == files
    assert fetched.reference == f"hf://someone/flux@{COMMIT}/{name}"
    assert fetched.path == (tmp_path / "into" / files[0] if len(files) == 1 else tmp_path / "into")
    assert sorted(file.relative_to(tmp_path / "into").as_posix() for file in (tmp_path / "into").rglob("*.*")) == files
    again = fetch(fetched.reference, tmp_path / "again")
    assert again.reference == fetched.reference
    assert sha256_path(again.path) == sha256_path(fetched.path)


def test_several_models_are_refused_before_any_download_by_references_that_are_taken(served: Hub, tmp_path):
    one_of_several(served)
    with pytest.raises(InvalidReference, match="holds 2 models") as refused:
        fetch("hf://someone/flux@main", tmp_path / "into")
    assert (served.looked_at, served.fetched) == (["ae.safetensors"], [])
    references = str(refused.value).partition("name one of them: ")[2].split(", ")
    assert references == ["hf://someone/flux@main/flux%20F16.gguf", "hf://someone/flux@main/flux%20Q8_0.gguf"]
    assert fetch(references[0], tmp_path / "into").path == tmp_path / "into" / "flux F16.gguf"


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_a_vae_is_told_by_its_tensors_before_the_download(served: Hub, tmp_path, takes_ranges):
    served.takes_ranges = takes_ranges
    folder = served.root / "someone" / "single"
    a_file(folder / "one.safetensors", "decoder.conv_in.weight")
    a_file(folder / "two.safetensors", "double_blocks.0.img_attn.qkv.weight")
    (folder / "three.safetensors").write_bytes(b"")
    with pytest.raises(InvalidReference, match=r"holds 2 models.*three\.safetensors, hf://someone/single/two\.safetensors"):
        fetch("hf://someone/single", tmp_path / "into")
    (folder / "three.safetensors").unlink()
    assert fetch("hf://someone/single", tmp_path / "into").reference == f"hf://someone/single@{COMMIT}/two.safetensors"
    assert served.fetched == ["two.safetensors"]
    assert set(served.looked_at) == {"one.safetensors", "two.safetensors"}
    assert served.tokens == []


def test_a_dduf_file_is_fetched_and_read(served: Hub, tmp_path):
    model, folder = make("SD"), served.root / "someone" / "packed"
    model.denoiser.save_pretrained(tmp_path / "pipeline" / "unet")
    folder.mkdir()
    pack(tmp_path / "pipeline", folder / "model.dduf")  # a ZIP file without compression, as DDUF is
    fetched = fetch("hf://someone/packed", tmp_path / "into")
    assert fetched.reference == f"hf://someone/packed@{COMMIT}/model.dduf"
    suspect = load_suspect(fetched.path, model.architecture)
    assert all(torch.equal(value, model.denoiser.get_parameter(name)) for name, value in suspect.denoiser.named_parameters())


def test_an_address_never_chooses_the_host(served: Hub, tmp_path):
    with hub(tmp_path / "hub") as other, pytest.raises(InvalidReference, match="no other host is ever contacted"):
        fetch(f"{other.url}/someone/copied-model", tmp_path / "into")
    assert (other.fetched, other.asked, served.asked) == ([], [], [])
    fetch("https://huggingface.co/someone/copied-model", tmp_path / "into")
    assert served.asked


def test_what_was_a_revision_before_references_could_name_files_is_one_still(served: Hub, tmp_path):
    one_of_several(served)
    served.revisions.add("stable/v1.0")
    assert fetch(f"{REPOSITORY}@stable/v1.0", tmp_path / "a").reference == f"{REPOSITORY}@{COMMIT}"
    served.revisions.add("stable")
    assert fetch(f"{REPOSITORY}@stable/v1.0", tmp_path / "b").reference == f"{REPOSITORY}@{COMMIT}"
    assert fetch(f"{REPOSITORY}@stable/unet", tmp_path / "c").reference == f"{REPOSITORY}@{COMMIT}/unet"
    assert fetch(f"{REPOSITORY}@stable%2Fv1.0/unet", tmp_path / "d").reference == f"{REPOSITORY}@{COMMIT}/unet"


def test_what_may_be_a_revision_or_a_folder_is_not_guessed(served: Hub, tmp_path):
    served.revisions.add("main/unet")
    with pytest.raises(InvalidReference, match="the file or folder unet of main, or the revision main/unet") as refused:
        fetch(f"{REPOSITORY}@main/unet", tmp_path / "into")
    folder, _, revision = str(refused.value).partition("; write ")[2].partition(" or ")
    assert fetch(folder, tmp_path / "a").reference == f"{REPOSITORY}@{COMMIT}/unet"
    assert fetch(revision, tmp_path / "b").reference == f"{REPOSITORY}@{COMMIT}"


@pytest.mark.long
@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("hf://someone/nothing", "there is no public repository hf://someone/nothing; check the name"),
        ("hf://someone/nothing@main/a.gguf", "there is no public repository hf://someone/nothing; check the name"),
        (f"{REPOSITORY}@other", "no such revision; name a branch, tag or commit"),
        (f"{REPOSITORY}@other/all.ckpt", "@other/all.ckpt: there is no such revision; .*%2F for each slash"),
        (
            f"{REPOSITORY}@main/none.ckpt",
            r"none\.ckpt does not exist; name one of them: hf://someone/copied-model@main/all\.ckpt",
        ),
        ("hf://someone/gated/lora.safetensors", "is gated.*download it with your own account"),
        ("hf://someone/gated-too", "is gated.*download it with your own account"),
        ("hf://someone/gated", "is gated.*download it with your own account and submit the files"),
        ("hf://someone/" + "x" * 97, "the hub gives no such names"),
        ("hf://someone/empty", "holds no weights of a denoiser"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_words(served: Hub, tmp_path, reference, words):
    (served.root / "someone" / "empty").mkdir()
    for name in ("gated/lora", "gated-too/a", "gated-too/b"):
        a_file(served.root / "someone" / f"{name}.safetensors", "secret")
    served.gated |= {"someone/gated", "someone/gated-too"}
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
