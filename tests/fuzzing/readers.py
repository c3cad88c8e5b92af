"""Every reader of bytes that a stranger may have made, as a function of these bytes.

``python -m benchmarks.fuzzing`` looks for bytes that a reader does not foresee; what it found is kept in ``corpus/``, and every
run of the tests reads it again.
"""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aiao._client.key_files import load_seed
from aiao_core.data.images import open_images
from aiao_core.data.latents import load_autoencoder
from aiao_core.data.owner_data import uncaptioned
from aiao_core.denoisers.model import DiffusionModel
from aiao_core.errors import LONGEST_SENTENCE, AiaoError, InvalidCheckpoint
from aiao_core.formats import pickles, suspects
from aiao_core.formats.archives import Limits, unpack
from aiao_core.formats.hub import parse
from aiao_core.formats.identify import identify_path
from aiao_core.formats.inspection import inspect
from aiao_core.formats.pickled_objects import MalformedPickle
from aiao_core.formats.pipelines import load_model
from aiao_core.formats.suspect_files import RegisteredDenoiser
from aiao_core.key import OwnerKey
from aiao_core.reports.audit import AuditReport
from aiao_core.reports.verification import Report
from service.kit.errors import ServiceError
from service.uploads.schemas import Checksum, parse_metadata
from service.webhooks.addresses import Address, UnsafeAddress
from service.webhooks.schemas import WebhookIn
from tests.fuzzing import material
from tests.support.suspect_files import architecture, base_of

CORPUS = Path(__file__).parent / "corpus"
LIMITS = Limits(files=100, total_bytes=8 << 20)
LIKE = "unconditional"
"""The family of the registered model."""

Read = Callable[[bytes, Path], Any]


@dataclass(frozen=True)
class Reader:
    """How to read bytes, in a new folder, and bytes that are read without an error."""

    read: Read
    good: Callable[[], list[bytes]]
    by_owner: bool = False
    """Whether whom it tells is the one on whose machine the file lies: its path is no secret then."""


def try_out(reader: Reader, content: bytes) -> str | None:
    """Read the bytes. Return the sentence of an error of ours; any other error is a fault, and so is a careless sentence."""
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as folder:
        try:
            reader.read(content, Path(folder))
        except (AiaoError, ServiceError, UnsafeAddress) as error:
            sentence = error.detail if isinstance(error, ServiceError) else str(error)
            assert 0 < len(sentence) <= LONGEST_SENTENCE, sentence
            assert sentence.isprintable(), sentence
            assert reader.by_owner or folder not in sentence, sentence
            return sentence
    return None


def _in_file(name: str, read: Callable[[Path], Any]) -> Read:
    """Read from a file of this name."""

    def write_and_read(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        read(folder / name)

    return write_and_read


def _as_text(read: Callable[[str], Any]) -> Read:
    """Read text, as the server hands on a header: bytes are characters of Latin-1."""
    return lambda content, _: read(content.decode("latin-1"))


def _upload(file: Path) -> None:
    """What the API asks of every upload."""
    identify_path(file)
    with file.open("rb") as opened:
        inspect(opened)


def _description(content: bytes, _: Path) -> None:
    try:
        pickles.load(io.BytesIO(content))
    except MalformedPickle as error:
        raise InvalidCheckpoint(str(error)) from error


@cache
def _registered() -> RegisteredDenoiser:
    return RegisteredDenoiser.of(architecture(LIKE))


def _suspect(path: Path) -> None:
    """What :func:`load_suspect` does, without building the registered denoiser each time."""
    suspects._parse(path, None, _registered(), base_of(LIKE))


def _adapter_config(content: bytes, folder: Path) -> None:
    adapter = folder / "adapter_model.safetensors"
    adapter.symlink_to(material.adapter() / adapter.name)
    (folder / "adapter_config.json").write_bytes(content)
    _suspect(folder)


def _shards(content: bytes, folder: Path) -> None:
    (folder / material.safetensors().name).symlink_to(material.safetensors())
    _in_file("model.safetensors.index.json", _suspect)(content, folder)


def _images(file: Path) -> None:
    with open_images(file, size=8, channels=3, limits=LIMITS) as found:
        for _ in found:
            pass


def _image(content: bytes, folder: Path) -> None:
    (folder / "a.png").write_bytes(content)
    _images(folder)


def _captions(content: bytes, folder: Path) -> None:
    (folder / "a.png").write_bytes(material.images()[0])
    (folder / "metadata.jsonl").write_bytes(content)
    _images(folder)


@cache
def _model() -> DiffusionModel:
    return load_model(material.pipeline())


def _texts(folder: Path) -> None:
    uncaptioned(folder, _model(), 1)


def _pipeline(file: str, read: Callable[[Path], Any]) -> Reader:
    """A pipeline with these bytes in the place of one of its files."""
    return Reader(lambda content, folder: read(material.pipeline_with(file, content, folder)), material.of_pipeline(file))


def _webhook(content: bytes, _: Path) -> None:
    try:
        webhook = WebhookIn.model_validate_json(content)
    except ValidationError:
        return
    Address.of(str(webhook.url), private=False)


READERS = {
    "upload": Reader(_in_file("upload", _upload), material.uploaded),
    "archive": Reader(_in_file("archive", lambda file: unpack(file, file.parent / "into", LIMITS)), material.archives),
    "safetensors": Reader(_in_file("suspect.safetensors", _suspect), lambda: [material.safetensors().read_bytes()]),
    "safetensors-notes": Reader(_in_file("suspect.safetensors", _suspect), material.odd_safetensors),
    "pickle-description": Reader(_description, material.descriptions),
    "pickle": Reader(_in_file("suspect.ckpt", _suspect), material.pickles),
    "gguf": Reader(_in_file("suspect.gguf", _suspect), material.ggufs),
    "adapter": Reader(_in_file("adapter.safetensors", _suspect), material.adapters),
    "adapter-config": Reader(_adapter_config, material.adapter_configs),
    "shard-index": Reader(_shards, material.shard_indices),
    "model-index": _pipeline("model_index.json", _texts),
    "denoiser-config": _pipeline("unet/config.json", load_model),
    "scheduler-config": _pipeline("scheduler/scheduler_config.json", load_model),
    "autoencoder-config": _pipeline("vae/config.json", load_autoencoder),
    "text-encoder-config": _pipeline("text_encoder/config.json", _texts),
    "tokenizer-config": _pipeline("tokenizer/tokenizer_config.json", _texts),
    "tokenizer": _pipeline("tokenizer/tokenizer.json", _texts),
    "vocabulary": _pipeline("tokenizer/vocab.json", _texts),
    "merges": _pipeline("tokenizer/merges.txt", _texts),
    "image": Reader(_image, material.images),
    "arrays": Reader(_in_file("images.npz", _images), material.arrays),
    "captions": Reader(_captions, lambda: [b'{"file_name": "a.png", "text": "a cat"}\n']),
    "key-file": Reader(
        lambda content, _: OwnerKey.from_json(content.decode("utf-8", "replace")), material.golden("key-*.json")
    ),
    "secret-file": Reader(_in_file("key", load_seed), material.golden("key-*.json"), by_owner=True),
    "report": Reader(lambda content, _: Report.from_json(content), material.golden("report-v*.json")),
    "audit-report": Reader(lambda content, _: AuditReport.from_json(content), material.golden("audit-v*.json")),
    "upload-metadata": Reader(_as_text(parse_metadata), lambda: [b"filename ZW1vamkuemlw"]),
    "upload-checksum": Reader(_as_text(Checksum), lambda: [b"sha256 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="]),
    "hub-reference": Reader(
        _as_text(parse), lambda: [b"hf://owner/name@main/a%20b.gguf?variant=fp16", b"https://hf.co/owner/name/tree/main"]
    ),
    "webhook": Reader(_webhook, lambda: [b'{"url": "https://example.com/hook"}']),
}
