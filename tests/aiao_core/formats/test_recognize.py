"""What a suspect's files are is found once: by content which kind of file, by names which tensors."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats import identify, suspect_files, suspects, weight_files
from aiao_core.formats.names import DIFFUSERS, PREFIXES
from aiao_core.formats.recognize import recognize
from aiao_core.formats.suspects import base_in, load_source, load_suspect
from tests.support.suspect_files import (
    adapt,
    architecture,
    check,
    check_merged,
    denoiser,
    original,
    save_companions,
    truth,
    write_gguf,
    zipped,
)


@pytest.fixture
def counted(monkeypatch) -> Counter[str]:
    """How often files are identified and tensors recognized."""
    counts: Counter[str] = Counter()

    def count(name: str, real):
        def counting(*arguments, **options):
            counts[name] += 1
            return real(*arguments, **options)

        return counting

    identifying = count("identify", identify.identify)
    monkeypatch.setattr(identify, "identify", identifying)
    monkeypatch.setattr(suspect_files, "recognize", count("recognize", suspect_files.recognize))
    for module in (suspects, suspect_files, weight_files):
        assert module.identify_path is identify.identify_path  # so that none of them is missed
    return counts


FORMS = ["plain", "half", "prefixed", "original", "pickle", "gguf", "fp8", "pipeline"]


def written(folder: Path, form: str) -> Path:
    file = folder / "suspect.safetensors"
    match form:
        case "plain":
            save_file(truth("SD"), file)
        case "half":
            save_file(truth("SD", torch.float16), file)
        case "prefixed":
            save_file({"unet." + name: value for name, value in truth("SD").items()}, file)
        case "original":
            save_file(original("SD"), file)
        case "pickle":
            file = folder / "suspect.ckpt"
            torch.save({"state_dict": original("SD")}, file)
        case "gguf":
            file = write_gguf(folder / "suspect.gguf", original("SD"))
        case "fp8":
            save_file({name: value.to(torch.float8_e4m3fn) for name, value in original("SD").items()}, file)
        case "pipeline":
            file = folder / "suspect"
            denoiser("SD").save_pretrained(file / "unet")
    return file


@pytest.mark.parametrize("form", FORMS)
def test_a_suspect_is_identified_and_recognized_once(tmp_path, counted, form):
    load_suspect(written(tmp_path, form), architecture("SD"))
    assert counted == {"identify": 1, "recognize": 1}


def test_of_an_archive_each_file_is(tmp_path, counted):
    (tmp_path / "bundle").mkdir()
    save_file(truth("SD"), tmp_path / "bundle" / "model.safetensors")
    save_companions(tmp_path / "bundle")
    load_suspect(zipped(tmp_path / "bundle"), architecture("SD"))
    assert counted == {"identify": 1 + 4, "recognize": 4}


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_of_an_adapter_and_its_base_each_is(tmp_path, counted, form):
    adapt(tmp_path / "adapter", "SD")
    base = base_in(written(tmp_path, form), "base", architecture("SD"))
    load_suspect(tmp_path / "adapter", architecture("SD"), base)
    assert counted == {"identify": 2, "recognize": 2}


def test_shards_are_identified_one_by_one_and_recognized_together(tmp_path, counted):
    denoiser("SD").save_pretrained(tmp_path, max_shard_size="100KB")
    shards = len(list(tmp_path.glob("*.safetensors")))
    load_suspect(tmp_path, architecture("SD"))
    assert shards > 1
    assert counted == {"identify": shards, "recognize": 1}


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.gguf", "model", "model.txt"])
def test_safetensors_are_read_under_any_name(tmp_path, name):
    save_file(truth("SD"), tmp_path / name)
    suspect = load_suspect(tmp_path / name, architecture("SD"))
    check(suspect, truth("SD"))
    assert suspect.form == "safetensors"


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf", "model"])
def test_a_pickle_and_gguf_are_read_under_any_name(tmp_path, name):
    torch.save(truth("SD"), tmp_path / name)
    assert load_suspect(tmp_path / name, architecture("SD")).form == "PyTorch pickle"
    write_gguf(tmp_path / name, truth("SD"))
    assert load_suspect(tmp_path / name, architecture("SD")).form == "GGUF"


def test_an_adapters_scale_is_found_in_the_file_under_any_name(tmp_path):
    expected = adapt(tmp_path / "adapter", "SD")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    text = (tmp_path / "adapter" / "adapter_config.json").read_text()
    save_file(weights, tmp_path / "renamed", metadata={"lora_adapter_metadata": text})
    base = tmp_path / "base"
    save_file(truth("SD"), base)
    found = load_suspect(tmp_path / "renamed", architecture("SD"), base_in(base, "base", architecture("SD")))
    check_merged(found, expected, "SD")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04", b"GGUF"])
def test_a_file_of_no_kind_is_named(tmp_path, content):
    (tmp_path / "model.ckpt").write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match=r"^model\.ckpt: this "):
        load_suspect(tmp_path / "model.ckpt", architecture("SD"))


def test_an_archive_within_a_folder_is_not_unpacked(tmp_path):
    (tmp_path / "inner").mkdir()
    save_file(truth("SD"), tmp_path / "inner" / "model.safetensors")
    zipped(tmp_path / "inner").rename(tmp_path / "model.ckpt")
    (tmp_path / "inner" / "model.safetensors").unlink()
    with pytest.raises(InvalidCheckpoint, match=r"model\.ckpt is an archive"):
        load_suspect(tmp_path, architecture("SD"))


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_every_prefix_is_known_in_every_layout(prefix):
    names = truth("SD")
    found = recognize({prefix + name: value for name, value in names.items()}, names)
    assert (found.fits, found.prefix, found.family) == (True, prefix, None)
    found = recognize({prefix + name: value for name, value in original("SD").items()}, names)
    assert (found.fits, found.prefix, found.family.words) == (False, prefix, "Stable Diffusion")


def test_what_is_recognized_of_other_tensors():
    names = truth("SD")
    assert recognize({"unet.mid_block.to_q.lora_A.weight": torch.ones(1)}, names).adapter
    assert recognize({"first_stage_model.decoder.conv_in.weight": torch.ones(1)}, names).is_companion
    other = recognize({"unet.down_blocks.7.weight": torch.ones(1)}, names)
    assert (other.family, other.fits, other.layout) == (DIFFUSERS, False, None)
    mochi = "model.diffusion_model.blocks.0.attn.qkv_x.weight"
    assert recognize({mochi: torch.ones(1)}, names).inferred == "mochi-1-preview"
    assert recognize({mochi: torch.ones(1, device="meta")}, names).inferred == "mochi-1-preview"


def test_the_source_is_read_as_at_its_registration(tmp_path):
    """An adapter beside a pipeline's weights was never embedded, so it is not merged into the source."""
    denoiser("SD").save_pretrained(tmp_path / "unet")
    adapt(tmp_path, "SD")
    (tmp_path / "model_index.json").write_text("{}")
    assert load_suspect(tmp_path, architecture("SD")).base is not None
    found = load_source(tmp_path, architecture("SD")).state_dict()
    assert all(torch.equal(found[name], value) for name, value in truth("SD").items())
