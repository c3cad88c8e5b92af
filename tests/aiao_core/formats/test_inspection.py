"""How large the model in an archive is: told by torch's own files, and never by more than a look at a hostile one."""

import io
import json
import struct
import tarfile
import zipfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiao_core.formats import inspection
from aiao_core.formats.archives import pack
from aiao_core.formats.inspection import inspect
from aiao_core.sizing import UNKNOWN, DenoiserSize
from demo_models.emoji.data import MODEL
from tests.support import uploads
from tests.support.places import PROJECT

EMOJI = DenoiserSize("UNet2DModel", 1_744_259, 16 * 16, 0)


def safetensors(numbers: int, dtype: str = "F32", width: int = 4, **header: object) -> bytes:
    """A header for so many numbers; the weights themselves are left out, for nobody reads them."""
    tensors = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": dtype, "shape": [numbers], "data_offsets": [0, numbers * width]},
    }
    text = json.dumps(tensors | header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(numbers * width)


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer


def found(files: dict[str, bytes]) -> DenoiserSize:
    """What is found in a ZIP file and in a TAR archive of ``files``, which must be the same."""
    tar = io.BytesIO(uploads.tar_of(files))
    in_zip, in_tar = inspect(zipped(files)), inspect(tar)
    assert in_zip == in_tar
    return in_zip


CONFIG = json.dumps({"_class_name": "SD3Transformer2DModel", "sample_size": 128}).encode()


@pytest.fixture(scope="module")
def emoji(tmp_path_factory) -> bytes:
    archive = tmp_path_factory.mktemp("emoji") / "emoji.zip"
    pack(MODEL, archive)
    return archive.read_bytes()


def test_the_shipped_model_is_as_large_as_it_says(emoji):
    assert inspect(io.BytesIO(emoji)) == EMOJI


def test_a_model_in_half_precision_with_its_text_encoders(tmp_path):
    pack(PROJECT / "demo_models/emoji_text/transformer", tmp_path / "model.zip")
    with (tmp_path / "model.zip").open("rb") as file:
        assert inspect(file) == DenoiserSize("SD3Transformer2DModel", 1_332_304, 16 * 16, 298_496)


@pytest.mark.parametrize("root", ["", "model/", "./"])
def test_a_folder_is_found_with_and_without_a_root(root):
    files = {f"{root}unet/config.json": CONFIG, f"{root}unet/diffusion_pytorch_model.safetensors": safetensors(1000)}
    assert found(files) == DenoiserSize("SD3Transformer2DModel", 1000, 128 * 128, 0)


def test_a_folder_packed_by_windows_is_found():
    files = {"model\\unet\\config.json": CONFIG, "model\\unet\\model.safetensors": safetensors(1000)}
    assert inspect(zipped(files)) == DenoiserSize("SD3Transformer2DModel", 1000, 128 * 128, 0)


@pytest.mark.parametrize(
    ("files", "parameters"),
    [
        ({"diffusion_pytorch_model.safetensors": safetensors(600, "F16", 2)}, 600),
        ({"diffusion_pytorch_model.safetensors": safetensors(600, "F8_E4M3", 1)}, 600),
        ({"diffusion_pytorch_model.safetensors": safetensors(600, "I64", 8)}, 4800),  # of a type that no weights have
        ({"diffusion_pytorch_model.bin": bytes(1200)}, 600),
        ({"m.safetensors": safetensors(600), "m.fp16.safetensors": safetensors(600, "F16", 2), "m.bin": bytes(1200)}, 600),
        ({f"m-0000{n}-of-00003.safetensors": safetensors(200) for n in (1, 2, 3)} | {"m.index.json": b"{}"}, 600),
        ({f"m-0000{n}-of-00003.fp16.bin": bytes(400) for n in (1, 2, 3)}, 600),
        ({"README.md": b"nothing"}, 0),
    ],
)
def test_of_every_way_to_save_weights_the_numbers_are_counted_once(files, parameters):
    assert found({f"transformer/{name}": content for name, content in files.items()}).parameters == parameters


def test_text_encoders_are_added_up_and_other_parts_are_none():
    files = {
        "unet/a.safetensors": safetensors(10),
        "text_encoder/model.safetensors": safetensors(100),
        "text_encoder_2/model.fp16.safetensors": safetensors(200, "F16", 2),
        "text_encoder_3/pytorch_model.bin": bytes(600),
        "vae/diffusion_pytorch_model.safetensors": safetensors(5000),
        "safety_checker/model.safetensors": safetensors(5000),
        "a/b/unet/a.safetensors": safetensors(5000),
    }
    assert found(files) == DenoiserSize("", 10, 128 * 128, 600)


@pytest.mark.parametrize(
    ("config", "class_name", "positions"),
    [
        ({"_class_name": "X", "sample_size": 64}, "X", 64 * 64),
        ({"_class_name": "X", "sample_size": [32, 64]}, "X", 32 * 64),
        ({"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel", 128 * 128),
        ({"sample_size": None}, "", 128 * 128),
        ({"_class_name": "a\0b", "sample_size": 10**30}, "", 128 * 128),
        ({"_class_name": {"x": 1}, "sample_size": [1, 2, 3]}, "", 128 * 128),
        ({"_class_name": "x" * 101, "sample_size": True}, "", 128 * 128),
        ({"_class_name": "ü", "sample_size": [-1, 64]}, "", 128 * 128),
        ({"_class_name": "X", "sample_size": float("nan")}, "X", 128 * 128),
    ],
)
def test_a_configuration_is_believed_where_it_makes_sense(config, class_name, positions):
    files = {"unet/config.json": json.dumps(config).encode(), "unet/a.safetensors": safetensors(10)}
    assert found(files) == DenoiserSize(class_name, 10, positions, 0)


def tensor(dtype: object, start: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "data_offsets": [start, end]}


HOSTILE = {
    "no JSON": struct.pack("<Q", 4) + b"{{{{",
    "deeper than Python goes": struct.pack("<Q", 200_000) + b'{"a":' * 40_000,
    "a list": struct.pack("<Q", 2) + b"[]",
    "negative": safetensors(0, w=tensor("F32", 8, 0)),
    "more than the file": safetensors(0, w=tensor("F32", 0, 1 << 62)),
    "endless": safetensors(0, w=tensor("F32", 0, float("inf"))),
    "no number": safetensors(0, w=tensor("F32", 0, float("nan"))),
    "text": safetensors(0, w=tensor("F32", "0", "8")),
    "one offset": safetensors(0, w={"dtype": "F32", "data_offsets": [0]}),
    "no type": safetensors(0, w=tensor({}, 0, 0)),
    "no tensor": safetensors(0, w=1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_no_library_wrote_tells_nothing(name):
    assert found({"unet/a.safetensors": HOSTILE[name]}) == UNKNOWN


def test_a_header_longer_than_any_is_not_read():
    content = struct.pack("<Q", inspection.MAX_HEADER_BYTES + 1) + b"[" * 1992
    assert found({"unet/a.safetensors": content}).parameters == 1000


def test_a_compressed_tar_archive_is_not_unpacked_to_be_looked_at():
    files = {"unet/config.json": CONFIG, "unet/a.safetensors": safetensors(10)}
    assert inspect(io.BytesIO(uploads.tar_of(files, "w:gz"))) == UNKNOWN


def test_a_long_tar_archive_is_not_read_to_its_end():
    assert inspect(io.BytesIO(uploads.tar_of({f"{number}.png": b"" for number in range(300)}))) == UNKNOWN
    assert inspect(zipped({f"{number}.png": b"" for number in range(300)})).parameters == 0


def test_a_link_in_an_archive_is_not_followed():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("unet/a.safetensors")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    buffer.seek(0)
    assert inspect(buffer) == replace(UNKNOWN, parameters=0, positions=128 * 128)


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_archive_is_looked_at_without_an_error(emoji, data):
    content = bytearray(emoji)
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(len(content) - 4000, len(content) - 1))] = data.draw(st.integers(0, 255))
    model = inspect(io.BytesIO(bytes(content)))
    assert model.parameters is None or 0 <= model.parameters <= inspection.MAX_PARAMETERS


@settings(max_examples=200)
@given(st.binary(max_size=2000), st.binary(max_size=200))
def test_any_bytes_are_looked_at_without_an_error(weights, config):
    model = inspect(zipped({"unet/a.safetensors": weights, "unet/config.json": config}))
    assert model.parameters is None or 0 <= model.parameters <= 2000
