"""Files to upload, written by the libraries that users write them with."""

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from safetensors.numpy import save


def zip_of(entries: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def tar_of(entries: dict[str, bytes], mode: str = "w") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def safetensors(*names: str) -> bytes:
    return save({name: np.ones((8, 8), np.float32) for name in names or ("conv.weight",)})


def pickle(*, legacy: bool = False) -> bytes:
    target = io.BytesIO()
    torch.save({"conv.weight": torch.ones(2)}, target, _use_new_zipfile_serialization=not legacy)
    return target.getvalue()


def gguf() -> bytes:
    """One tensor of 32 numbers."""
    with tempfile.TemporaryDirectory() as folder:
        writer = GGUFWriter(f"{folder}/model.gguf", "flux")
        writer.add_tensor("conv.weight", np.ones(32, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Path(f"{folder}/model.gguf").read_bytes()


def npz() -> bytes:
    target = io.BytesIO()
    np.savez(target, x=np.zeros((2, 4, 4, 3), np.uint8))
    return target.getvalue()


MODEL_ZIP = zip_of({"model_index.json": b"{}", "unet/config.json": b"{}"})
MODEL_TAR = {"model_index.json": b"{}"}
PNGS = zip_of({"a.png": b"1", "deeper/b.PNG": b"2"})
