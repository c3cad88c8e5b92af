"""Files that people submit by mistake: each is named, with what to do instead."""

import io
import os
import sqlite3
import struct
import tarfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.archives import unpacked
from aiao_core.formats.identify import identify, identify_path
from aiao_core.formats.suspects import load_suspect
from tests.support import uploads
from tests.support.suspect_files import architecture, denoiser, truth, zipped

NOISE = bytes(range(256)) * 16


def database() -> bytes:
    with sqlite3.connect(":memory:") as opened:
        opened.execute("create table tensors (name text, data blob)")
        return opened.serialize()


def picture(form: str) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (4, 4)).save(target, form)
    return target.getvalue()


def torchscript() -> bytes:
    target = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)), target)
    return target.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 3438167540\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
BY_CONTENT = {
    "empty": (b"", "an empty file"),
    "zeros": (bytes(100_000), "begins with zero bytes alone"),
    "few zeros": (bytes(7), "begins with zero bytes alone"),
    "git-LFS": (LFS, "a git-LFS pointer.*git lfs pull"),
    "page": (PAGE, "a web page"),
    "page after lines": (b"\xef\xbb\xbf\n\n  " + PAGE.lower(), "a web page"),
    "page in XML": (b'<?xml version="1.0"?>\n' + PAGE, "a web page"),
    "hub's error": (b'{"error":"Access to model a/b is restricted and you are not in the authorized list."}', "JSON"),
    "list": (b'["a", "b", "c"]', "JSON"),
    "bucket's error": (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>', "a file server"),
    "server's words": (b"Entry not found", "a short text, perhaps a server's error message"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04" + NOISE, "a 7z archive; unpack it, and pack the folder as .zip or .tar"),
    "RAR": (b"Rar!\x1a\x07\x01\x00" + NOISE, "a RAR archive"),
    "RAR of version 4": (b"Rar!\x1a\x07\x00" + NOISE, "a RAR archive"),
    "Zstandard": (b"\x28\xb5\x2f\xfd\x24" + NOISE, "a Zstandard"),
    "LZ4": (b"\x04\x22\x4d\x18" + NOISE, "an LZ4 archive"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:" + NOISE, "an ONNX model"),
    "ONNX without a producer": (b"\x08\x0a\x3a\xd0\x07" + NOISE, "an ONNX model"),
    "Core ML": (b"\x08\x05\x12\x9a\x03\x0a\x20\x0a\x05input" + NOISE, "a Core ML model"),
    "OpenVINO": (b'<?xml version="1.0"?>\n<net name="unet" version="11">', "an OpenVINO model"),
    "Flax": (b"\x8d\xa7conv_in\x82\xa4bias" + NOISE, "a Flax msgpack file"),
    "Flax, many": (b"\xde\x00\x14\xa7conv_in\x82\xa4bias" + NOISE, "a Flax msgpack file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + NOISE, "an HDF5 file"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + NOISE, "a TensorFlow Lite model"),
    "TensorRT": (b"ftrt" + NOISE, "a TensorRT engine"),
    "SQLite": (database(), "an SQLite database, as Draw Things"),
    "PNG": (picture("PNG"), "a PNG image"),
    "JPEG": (picture("JPEG"), "a JPEG image"),
    "WebP": (picture("WEBP"), "a WebP image"),
    "GIF": (picture("GIF"), "a GIF image"),
    "PDF": (b"%PDF-1.7\n" + NOISE, "a PDF document"),
    "array": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "a NumPy array"),
    "AppleDouble": (struct.pack(">II16sH", 0x00051607, 0x00020000, b"Mac OS X", 2) + bytes(120), "an AppleDouble file"),
    "TorchScript": (torchscript(), r"a TorchScript module, .*state_dict\(\)"),
}


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt", "model.bin", "model"])
@pytest.mark.parametrize("kind", BY_CONTENT)
def test_a_foreign_file_is_named_whatever_it_is_called(tmp_path, kind, name):
    content, words = BY_CONTENT[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match=rf"^{name}: this is .*{words}") as error:
        identify_path(tmp_path / name)
    assert ";" in str(error.value)  # what to do


BY_NAME = {"a.msgpack": "Flax", "a.onnx": "ONNX", "a.onnx_data": "ONNX", "a.mlmodel": "Core ML", "a.engine": "TensorRT",
           "a.h5": "HDF5", "a.pb": "TensorFlow", "a.distcp": "distributed PyTorch", "a.7z": "7z", "A.RAR": "RAR"}  # fmt: skip


@pytest.mark.parametrize("name", BY_NAME)
def test_without_first_bytes_of_its_own_the_name_tells(tmp_path, name):
    (tmp_path / name).write_bytes(NOISE)
    with pytest.raises(InvalidCheckpoint, match=BY_NAME[name]):
        identify_path(tmp_path / name)
    with (tmp_path / name).open("rb") as file, pytest.raises(InvalidCheckpoint, match=BY_NAME[name]):
        identify(file, len(NOISE), name)  # as the service asks, which keeps the client's name apart


@given(st.binary(min_size=3, max_size=3), st.sampled_from([b'{"', b"{}", b"{ "]))
def test_a_safetensors_file_may_begin_with_any_length(first, begin):
    """A header of 19,280 bytes begins a file as a ZIP archive begins."""
    length = int.from_bytes(first, "little")
    head = io.BytesIO(length.to_bytes(8, "little") + begin)
    with pytest.raises(InvalidCheckpoint, match="this is no complete safetensors file"):
        identify(head, 10)


@pytest.mark.parametrize("name", ["ptrt", "GIF8", "lmgg", "{"])
def test_an_archive_is_known_whatever_its_first_file_is_called(tmp_path, name):
    (tmp_path / "a.tar").write_bytes(uploads.tar_of({f"{name}/config.json": b"{}"}))
    assert tarfile.is_tarfile(tmp_path / "a.tar")
    assert identify_path(tmp_path / "a.tar") == "archive"


FOLDERS = {
    "Flax": ({"unet/diffusion_flax_model.msgpack": b"\x8d\xa7conv_in\x82\xa4bias"}, r"msgpack is a Flax msgpack file"),
    "ONNX": ({"unet/model.onnx": NOISE, "unet/model.onnx_data": NOISE}, r"unet/model\.onnx is an ONNX model"),
    "OpenVINO": (
        {"unet/openvino_model.xml": b"<net name='unet'>", "unet/openvino_model.bin": NOISE},
        r"openvino_model\.bin: this is the numbers of an OpenVINO model",
    ),
    "Core ML": (
        {"Unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin": b"\2\0\0\0" + NOISE, "Unet.mlpackage/Manifest.json": b"{}"},
        r"weight\.bin: this is a Core ML model",
    ),
    "Core ML, compiled": ({"Unet.mlmodelc/weights/weight.bin": b"\2\0\0\0" + NOISE}, r"weight\.bin: this is a Core ML model"),
    "TensorFlow": ({"saved_model.pb": NOISE, "variables/variables.index": NOISE}, r"saved_model\.pb is a TensorFlow model"),
    "archive": ({"model.7z": b"7z\xbc\xaf\x27\x1c" + NOISE}, r"model\.7z is a 7z archive"),
    "distributed": (
        {"__0_0.distcp": uploads.pickle(), ".metadata": b"\x80\x04N."},
        r"distcp is a part of a distributed PyTorch",
    ),
    "nested": (
        {"inner/model.zip": uploads.MODEL_ZIP, "readme.txt": b"hello"},
        r"inner/model\.zip is an archive: unpack it there",
    ),
    "nothing": ({"readme.txt": b"hello", "config.json": b"{}", "cover.png": picture("PNG")}, r"or \.gguf file$"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_foreign_files_names_them(tmp_path, kind, packed):
    files, words = FOLDERS[kind]
    folder = tmp_path / "model"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match=words):
        load_suspect(zipped(folder) if packed else folder, architecture("SD"))


def test_a_pipeline_with_a_pointer_in_the_place_of_its_weights_says_so(tmp_path):
    denoiser("SD").save_pretrained(tmp_path / "model" / "unet")
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(LFS)
    with pytest.raises(InvalidCheckpoint, match=r"diffusion_pytorch_model\.safetensors: this is a git-LFS pointer"):
        load_suspect(tmp_path / "model", architecture("SD"))


def test_a_folder_is_called_as_its_archive_is(tmp_path):
    (tmp_path / "my model.zip").write_bytes(uploads.zip_of({"a.txt": b"", "b.txt": b""}))
    with unpacked(tmp_path / "my model.zip") as folder:
        assert folder.name == "my model.zip"


def test_weights_are_found_by_content_where_no_name_tells(tmp_path):
    (tmp_path / "model").mkdir()
    target = io.BytesIO()
    torch.save(truth("SD"), target)
    (tmp_path / "model" / "weights").write_bytes(target.getvalue())
    (tmp_path / "model" / "notes.txt").write_bytes(os.urandom(100))
    found = load_suspect(tmp_path / "model", architecture("SD")).denoiser.state_dict()
    assert all(torch.equal(found[name], value) for name, value in truth("SD").items())
