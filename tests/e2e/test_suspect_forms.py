"""Copies of the published model in other forms, tested by a real worker."""

import copy
from pathlib import Path

import gguf
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from aiao import ApiError, JobFailed
from aiao_core.formats.archives import unpack
from aiao_core.formats.digests import sha256_file
from aiao_core.formats.pipelines import load_model
from aiao_core.reports.verification import Report
from tests.support.hub import COMMIT
from tests.support.processes import MAX_UNPACKED_BYTES, wait_for


@pytest.fixture(scope="module")
def published(marked, tmp_path_factory) -> Path:
    """The published model, unpacked."""
    return unpack(marked, tmp_path_factory.mktemp("published") / "content")


@pytest.fixture(scope="module")
def adapter(published, tmp_path_factory) -> Path:
    """A LoRA that changes every attention of the published model a little."""
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v"])
    adapted = get_peft_model(copy.deepcopy(load_model(published).denoiser), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    return folder


def verified(owner, model_id, suspect, **arguments):
    submission = owner.verifications.create(model_id, suspect, **arguments)
    owner.jobs.wait(submission)
    verification = owner.verifications.get(submission.verification.id)
    return verification, Report.from_json(owner.verifications.report(verification.id))


def test_an_adapter_without_its_base_is_not_merged_into_the_registered_marked_model(owner, registered, adapter, tmp_path):
    """A safetensors file is refused at once; of an archive or a pickle the worker finds out, and says it too."""
    with pytest.raises(ApiError, match="base_artifact_id") as refused:
        owner.verifications.create(registered.model.id, adapter / "adapter_model.safetensors")
    assert (refused.value.status, refused.value.type) == (422, "adapter-without-base")
    torch.save(load_file(adapter / "adapter_model.safetensors"), tmp_path / "adapter.bin")
    for suspect in (adapter, tmp_path / "adapter.bin"):
        with pytest.raises(JobFailed, match="base_artifact_id") as failed:
            owner.jobs.wait(owner.verifications.create(registered.model.id, suspect))
        assert failed.value.code == "adapter-without-base"


def test_an_adapter_is_tested_on_the_base_that_its_submitter_names(owner, source, registered, adapter):
    verification, report = verified(owner, registered.model.id, adapter, base=source)
    assert (verification.verdict, verification.tested, verification.base_name) == ("no-match", "adapter", "model.zip")
    assert report.base_test.log10_p > -6
    assert report.suspect_form.startswith("base: model.zip (safetensors); PEFT LoRA of rank 2")
    base = next(entry for entry in report.inputs if entry.role == "base")
    assert base.sha256 == owner.artifacts.get(verification.base_artifact_id).sha256


def test_of_an_adapter_on_the_marked_model_nothing_is_said(owner, registered, adapter, marked):
    verification, report = verified(owner, registered.model.id, adapter, base=marked)
    assert (verification.verdict, verification.tested, verification.base_name) == ("base-marked", "base", "marked.zip")
    assert report.test.log10_p < -30
    assert "The base carries the mark. Nothing is said of the adapter." in owner.verifications.report_html(verification.id)


def test_an_adapter_may_name_itself_as_its_base_in_vain(owner, registered, adapter):
    file = adapter / "adapter_model.safetensors"
    artifact = owner.artifacts.upload(file).id
    body = {"model_id": registered.model.id, "artifact_id": artifact, "base_artifact_id": artifact}
    job = owner.transport.post("/v1/verifications", json=body).json()["job"]
    with pytest.raises(JobFailed, match="the base model cannot be used: this is an adapter"):
        owner.jobs.wait(job["id"])


def test_a_gguf_file(owner, registered, published, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "copy.gguf", "unet")
    for name, value in load_model(published).denoiser.state_dict().items():
        writer.add_tensor(name, value.half().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    verification, report = verified(owner, registered.model.id, tmp_path / "copy.gguf")
    assert (verification.verdict, report.suspect_form) == ("match", "GGUF")


def test_a_repository_of_the_hub(production, owner, registered, published, our_hub):
    repository = our_hub.root / "thief" / "copied-model"
    (repository / "unet").mkdir(parents=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (repository / "unet" / name).write_bytes((published / "unet" / name).read_bytes())
    (repository / "setup.py").write_text("raise SystemExit")
    verification, report = verified(owner, registered.model.id, "hf://thief/copied-model")
    assert verification.verdict == "match"
    assert verification.hub == "hf://thief/copied-model"
    assert verification.suspect_name == report.suspect_name == f"hf://thief/copied-model@{COMMIT}"
    assert verification.suspect_sha256 == report.inputs[0].sha256
    assert "setup.py" not in our_hub.fetched
    file = "unet/diffusion_pytorch_model.safetensors"
    verification, _ = verified(owner, registered.model.id, f"https://huggingface.co/thief/copied-model/blob/main/{file}")
    assert verification.verdict == "match"
    assert verification.hub == f"hf://thief/copied-model@main/{file}"
    assert verification.suspect_name == f"hf://thief/copied-model@{COMMIT}/{file}"
    assert verification.suspect_sha256 == sha256_file(repository / file)  # as the hub itself shows it
    scratch = production.data_dir / "scratch"
    wait_for(lambda: not list(scratch.iterdir()), "the scratch folder of a job that is done stays")


def test_a_repository_that_cannot_be_fetched(owner, registered, our_hub):
    (our_hub.root / "thief" / "large").mkdir(parents=True)
    with (our_hub.root / "thief" / "large" / "model.safetensors").open("wb") as file:
        file.truncate(MAX_UNPACKED_BYTES + 1)
    for reference, words in (
        ("hf://thief/nothing", "no public repository"),
        ("hf://thief/large", f"more than the {MAX_UNPACKED_BYTES}"),
    ):
        with pytest.raises(JobFailed, match=words) as failure:
            owner.jobs.wait(owner.verifications.create(registered.model.id, reference))
        assert failure.value.code == "invalid-reference"
