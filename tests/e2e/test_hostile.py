"""Whatever a client uploads is attacker-made: each gets a clear reason, nothing runs, nothing stays, the worker lives."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aiao import ApiError, JobFailed
from demo_models.emoji.data import MODEL
from tests.support.processes import MAX_UNPACKED_BYTES


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def write_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def make(case: str, folder: Path, source: Path) -> Path:
    """Make the hostile suspect of that name, perhaps of the source's weights."""
    weights_file = source / "unet" / "diffusion_pytorch_model.safetensors"
    match case:
        case "zip slip":
            return write_zip(folder / "slip.zip", {"unet/config.json": b"{}", "../../../../escaped.txt": b"out"})
        case "zip bomb":
            return write_zip(folder / "bomb.zip", {"unet/zeros.safetensors": bytes(80 << 20)}, zipfile.ZIP_DEFLATED)
        case "pickle that runs code":
            torch.save({"conv_in.weight": Evil(folder / "executed")}, folder / "evil.bin")
            return folder / "evil.bin"
        case "bare pickle that runs code":
            (folder / "evil.pt").write_bytes(pickle.dumps(Evil(folder / "executed")))
            return folder / "evil.pt"
        case "truncated safetensors":
            (folder / "cut.safetensors").write_bytes(weights_file.read_bytes()[:-1000])
            return folder / "cut.safetensors"
        case "truncated safetensors in a zip":
            return write_zip(folder / "cut.zip", {"unet/model.safetensors": weights_file.read_bytes()[:-1000]})
        case "text named safetensors":
            (folder / "text.safetensors").write_text("These are not the weights you are looking for.")
            return folder / "text.safetensors"
        case "another architecture":
            return MODEL
        case "another class":
            config = {"_class_name": "os.system", "sample_size": 16}
            return write_zip(folder / "class.zip", {"unet/config.json": json.dumps(config).encode(), "unet/a.bin": b""})
        case "NaN weights":
            weights = load_file(weights_file)
            weights["mid_block.attentions.0.to_q.weight"][0, 0] = torch.nan
            save_file(weights, folder / "nan.safetensors")
            return folder / "nan.safetensors"
        case "activations that overflow":
            weights = {name: value.float() for name, value in load_file(weights_file).items()}
            weights["conv_in.weight"].fill_(3e38)
            save_file(weights, folder / "overflow.safetensors")
            return folder / "overflow.safetensors"
        case "no weights":
            return write_zip(folder / "none.zip", {"readme.txt": b"hello"})
    raise ValueError(case)


FAILED_JOBS = {
    "zip slip": ("unsafe-archive", "outside of its folder"),
    "zip bomb": ("unsafe-archive", "expands beyond"),
    "pickle that runs code": ("invalid-checkpoint", r"evil.bin holds no weights, but objects of builtins.getattr"),
    "bare pickle that runs code": ("invalid-checkpoint", r"evil.pt .* holds an object of pathlib.Path.touch"),
    "truncated safetensors in a zip": ("invalid-checkpoint", "no complete safetensors file"),
    "another architecture": ("wrong-architecture", "layer"),
    "another class": ("wrong-architecture", "os.system"),
    "NaN weights": ("invalid-checkpoint", "layer mid_block.attentions.0.to_q"),
    "activations that overflow": ("invalid-checkpoint", "puts out NaN or infinite"),
    "no weights": ("invalid-checkpoint", "holds no weights"),
}
REFUSED_UPLOADS = {
    "truncated safetensors": "no complete safetensors file",
    "text named safetensors": "a short text",
}


@pytest.mark.parametrize("case", FAILED_JOBS)
def test_a_hostile_suspect_is_a_failed_job_with_its_reason(production, owner, source, registered, tmp_path, case):
    code, words = FAILED_JOBS[case]
    submission = owner.verifications.create(registered.model.id, make(case, tmp_path, source))
    with pytest.raises(JobFailed, match=words) as failure:
        owner.jobs.wait(submission)
    assert failure.value.code == code
    verification = owner.verifications.get(submission.verification.id)
    assert (verification.status, verification.verdict, verification.error.code) == ("failed", None, code)
    assert not (tmp_path / "executed").exists()
    assert not list(production.data_dir.parent.rglob("escaped.txt"))
    assert not list((production.data_dir / "scratch").iterdir())
    assert production.processes["worker"].poll() is None


@pytest.mark.parametrize("case", REFUSED_UPLOADS)
def test_a_broken_file_is_refused_at_once(production, owner, source, registered, tmp_path, case):
    before = [path for path in (production.data_dir / "storage").rglob("*") if path.is_file()]
    with pytest.raises(ApiError, match=REFUSED_UPLOADS[case]) as refusal:
        owner.verifications.create(registered.model.id, make(case, tmp_path, source))
    assert (refusal.value.status, refusal.value.type) == (422, "invalid-artifact")
    assert [path for path in (production.data_dir / "storage").rglob("*") if path.is_file()] == before


def empty_npz(folder: Path) -> Path:
    np.savez(folder / "empty.npz", x=np.zeros((0, 16, 16, 3), np.uint8))
    return folder / "empty.npz"


def broken_picture(folder: Path) -> Path:
    return write_zip(folder / "broken.zip", {"a.png": b"\x89PNG\r\n\x1a\nbroken"})


def beyond_the_operators_limit(folder: Path) -> Path:
    """Much, but not suspiciously much more than what is uploaded: 1 MiB of noise among 68 MiB of nothing."""
    pixels = np.zeros((68, 1024, 1024), np.uint8)
    pixels[:1] = np.random.default_rng(0).integers(0, 256, (1, 1024, 1024))
    np.savez_compressed(folder / "large.npz", x=pixels)
    return folder / "large.npz"


@pytest.mark.parametrize(
    ("images", "code", "words"),
    [
        (empty_npz, "invalid-images", "the image set is empty"),
        (broken_picture, "invalid-images", "not a readable image"),
        (beyond_the_operators_limit, "unsafe-archive", f"expands beyond {MAX_UNPACKED_BYTES} bytes"),
    ],
)
def test_an_unusable_image_set_fails_the_registration(owner, source, tmp_path, images, code, words):
    registration = owner.models.register(source, name="no images", images=images(tmp_path), options={"steps": 1})
    with pytest.raises(JobFailed, match=words):
        owner.jobs.wait(registration)
    model = owner.models.get(registration.model.id)
    assert (model.status, model.error.code, model.checkpoint) == ("failed", code, None)


def test_a_folder_that_is_no_pipeline_fails_the_registration(owner, tmp_path):
    registration = owner.models.register(write_zip(tmp_path / "a.zip", {"readme.txt": b"hi"}), name="nothing")
    with pytest.raises(JobFailed, match=r"model_index\.json, or unet/ or transformer/, is missing"):
        owner.jobs.wait(registration)


def test_a_watermark_that_cannot_be_proved_is_not_handed_out(owner, source):
    registration = owner.models.register(source, name="too short", options={"steps": 1, "samples": 4})
    with pytest.raises(JobFailed, match="use more steps or more layers") as failure:
        owner.jobs.wait(registration)
    assert failure.value.code == "embedding-failed"
    assert owner.models.get(registration.model.id).checkpoint is None


def test_a_pickle_of_plain_weights_is_read(owner, registered, marked):
    content = io.BytesIO()
    with zipfile.ZipFile(marked) as archive:
        content.write(archive.read("unet/diffusion_pytorch_model.safetensors"))
    file = marked.with_name("marked.bin")
    marked_weights = marked.with_name("marked.safetensors")
    marked_weights.write_bytes(content.getvalue())
    torch.save({"state_dict": load_file(marked_weights)}, file)
    submission = owner.verifications.create(registered.model.id, file)
    owner.jobs.wait(submission)
    assert owner.verifications.get(submission.verification.id).verdict == "match"
