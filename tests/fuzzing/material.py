"""What readers are given beside the bytes, and bytes that they read without an error, made once in a process."""

import io
import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from aiao_core.formats.archives import pack
from tests.support import pipelines, uploads
from tests.support.pickles import lightning, saved
from tests.support.places import GOLDEN
from tests.support.suspect_files import adapt, denoiser, write_gguf


@cache
def folder() -> Path:
    """A folder that lives as long as the process."""
    return Path(tempfile.mkdtemp(prefix="fuzzing-material-"))


@cache
def pipeline() -> Path:
    """A text-to-image pipeline, with the tokenizers' files as older libraries wrote them too."""
    saved = pipelines.save("SD", folder() / "pipeline")
    for file in saved.rglob("tokenizer/tokenizer.json"):
        described = json.loads(file.read_text())["model"]
        file.with_name("vocab.json").write_text(json.dumps(described["vocab"]))
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in described["merges"]]
        file.with_name("merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return saved


def pipeline_with(file: str, content: bytes, into: Path) -> Path:
    """Copy the pipeline into a folder, with other content of one file."""
    copied = Path(shutil.copytree(pipeline(), into / "model"))
    (copied / file).write_bytes(content)
    if file.endswith(("vocab.json", "merges.txt")):  # else the new form is read alone
        (copied / file).with_name("tokenizer.json").unlink()
    return copied


def of_pipeline(file: str) -> Callable[[], list[bytes]]:
    return lambda: [(pipeline() / file).read_bytes()]


def archives() -> list[bytes]:
    files = {"model_index.json": b"{}", "unet/config.json": b"{}", "unet/weights.safetensors": uploads.safetensors()}
    return [uploads.zip_of(files), *(uploads.tar_of(files, mode) for mode in ("w", "w:gz", "w:bz2", "w:xz")), *linked()]


def linked() -> list[bytes]:
    """A file and a link to it, as in a cache of the hub."""
    written = io.BytesIO(uploads.tar_of({"blobs/1": b"content"}))
    with tarfile.open(fileobj=written, mode="a") as archive:
        link = tarfile.TarInfo("snapshots/1/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../blobs/1"
        archive.addfile(link)
    entry = zipfile.ZipInfo("snapshots/1/link")
    entry.external_attr = 0o120777 << 16
    packed = io.BytesIO(uploads.zip_of({"blobs/1": b"content"}))
    with zipfile.ZipFile(packed, "a") as target:
        target.writestr(entry, "../../blobs/1")
    return [written.getvalue(), packed.getvalue()]


def uploaded() -> list[bytes]:
    packed = folder() / "packed.zip"
    pack(pipeline(), packed)
    return [uploads.safetensors(), uploads.pickle(), uploads.pickle(legacy=True), uploads.gguf(), *archives(),
            packed.read_bytes()]  # fmt: skip


def suspect() -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in denoiser("unconditional").state_dict().items()}


@cache
def safetensors() -> Path:
    file = folder() / "suspect.safetensors"
    save_file(suspect(), file)
    return file


def pickles() -> list[bytes]:
    content = [saved(suspect(), legacy=legacy, protocol=protocol) for legacy in (False, True) for protocol in (2, 4)]
    whole = saved({"model": denoiser("unconditional"), "ema": {"shadow": suspect()}})
    return [*content, lightning(suspect()), lightning(suspect(), legacy=True), whole]


def descriptions() -> list[bytes]:
    """Pickles without the numbers of their tensors."""
    written = []
    for content in pickles():
        if content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                written += [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    return written


def odd_safetensors() -> list[bytes]:
    """With notes that break the rules of the format, so that its library does not read them."""
    content = safetensors().read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps({"__metadata__": {"epoch": 3}} | json.loads(content[8 : 8 + length])).encode()
    return [len(header).to_bytes(8, "little") + header + content[8 + length :]]


def ggufs() -> list[bytes]:
    return [write_gguf(folder() / "suspect.gguf", suspect()).read_bytes()]


@cache
def adapter() -> Path:
    adapt(folder() / "adapter", "unconditional")
    return folder() / "adapter"


def adapters() -> list[bytes]:
    return [(adapter() / "adapter_model.safetensors").read_bytes()]


def adapter_configs() -> list[bytes]:
    return [(adapter() / "adapter_config.json").read_bytes()]


def shard_indices() -> list[bytes]:
    return [json.dumps({"metadata": {"total_size": 1}, "weight_map": {"conv_in.weight": safetensors().name}}).encode()]


def images() -> list[bytes]:
    written = []
    for form in ("PNG", "JPEG", "WEBP", "BMP"):
        target = io.BytesIO()
        Image.new("RGB", (9, 7), "red").save(target, form)
        written.append(target.getvalue())
    return written


def arrays() -> list[bytes]:
    target = io.BytesIO()
    np.savez(target, x=np.zeros((2, 4, 4, 3), np.uint8), text=np.array(["a", "b"]))
    compressed = io.BytesIO()
    np.savez_compressed(compressed, x=np.zeros((2, 4, 4), np.uint8))
    return [target.getvalue(), compressed.getvalue()]


def golden(*patterns: str) -> Callable[[], list[bytes]]:
    return lambda: [file.read_bytes() for pattern in patterns for file in sorted(GOLDEN.glob(pattern))]
