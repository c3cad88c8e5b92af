"""What stands before, and in the midst of, the names of a denoiser's tensors."""

import pytest
import torch
from safetensors.torch import save_file

from aiao_core.errors import InvalidCheckpoint
from aiao_core.formats.names import common_prefix, is_average, prefixes_in, unwrapped
from aiao_core.formats.suspects import load_suspect
from tests.support.suspect_files import architecture, check, original, truth

WRAPPED = {
    "compiled in parallel": lambda name: f"module._orig_mod.{name}",
    "parallel and compiled": lambda name: f"_orig_mod.module.{name}",
    "a compiled block": lambda name: name.replace("attentions.0.", "attentions.0._orig_mod.", 1),
    "every compiled block": lambda name: name.replace("resnets.", "resnets._orig_mod."),
    "sharded": lambda name: "_fsdp_wrapped_module." + name.replace("resnets.0.", "resnets.0._fsdp_wrapped_module.", 1),
    "checkpointed": lambda name: name.replace("resnets.0.", "resnets.0._checkpoint_wrapped_module.", 1),
    "both": lambda name: name.replace("mid_block.", "mid_block._fsdp_wrapped_module._checkpoint_wrapped_module."),
    "Lightning's fabric": lambda name: f"_forward_module.{name}",
    "averages": lambda name: f"ema_model.module.{name}",
    "a net": lambda name: f"net.{name}",
    "a trainer's class": lambda name: f"trainer.generator.backbone.{name}",
}  # fmt: skip


@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_are_taken_away(tmp_path, how):
    save_file({WRAPPED[how](name): value for name, value in truth("SD").items()}, tmp_path / "model.safetensors")
    check(load_suspect(tmp_path / "model.safetensors", architecture("SD")), truth("SD"))


@pytest.mark.parametrize("prefix", ["module.model.diffusion_model.", "_orig_mod.model.diffusion_model.", "net.", "a.b.c."])
@pytest.mark.parametrize("family", ["SD", "SD3", "FLUX"])
def test_of_original_layouts_too(tmp_path, family, prefix):
    save_file({prefix + name: value for name, value in original(family).items()}, tmp_path / "model.safetensors")
    check(load_suspect(tmp_path / "model.safetensors", architecture(family)), truth(family))


def other(name: str) -> dict[str, torch.Tensor]:
    return {tensor: value + 1 for tensor, value in truth(name).items()}


@pytest.mark.parametrize(
    "prefixes", [("model.", "ema_model."), ("", "ema."), ("net.", "net_ema."), ("unet.", "unet_ema_0.999.")]
)
def test_the_model_counts_before_its_averages(tmp_path, prefixes):
    model, averages = ({prefix + name: value for name, value in truth("SD").items()} for prefix in prefixes)
    changed = {name: value + 1 for name, value in averages.items()}
    save_file(changed | model, tmp_path / "model.safetensors")
    suspect = load_suspect(tmp_path / "model.safetensors", architecture("SD"))
    check(suspect, truth("SD"))
    assert suspect.form == f"safetensors, its moving averages ({prefixes[1]}…) not used"


@pytest.mark.parametrize(
    "prefixes", [("student.", "teacher."), ("unet.", "transformer."), ("", "copy."), ("ema1_ema.", "ema2_ema.")]
)
def test_two_models_in_one_file_are_not_guessed(tmp_path, prefixes):
    both = {prefixes[0] + name: value for name, value in truth("SD").items()}
    both |= {prefixes[1] + name: value for name, value in other("SD").items()}
    save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"this holds two models, under .* and .*; submit one of them alone"):
        load_suspect(tmp_path / "model.safetensors", architecture("SD"))


def test_a_tensor_that_is_there_wrapped_and_not_is_refused():
    with pytest.raises(InvalidCheckpoint, match=r"file\.pt holds a\.b twice"):
        unwrapped({"a.b": 1, "a._orig_mod.b": 2}, "file.pt")


def test_a_class_of_ones_own_may_hold_two_denoisers():
    both = [f"unet{number}.down_blocks.{block}.weight" for number in (1, 2) for block in range(9)]
    assert common_prefix(both, both) == ""
    assert common_prefix([f"module.{name}" for name in both], both) == "module."


def test_companions_have_no_prefix():
    names = ["vae.decoder.mid_block.0.weight", "encoder.down_blocks.0.weight", "first_stage_model.decoder.up_blocks.0.weight",
             "text_encoders.t5.transformer_blocks.0", "control_model.input_blocks.0.weight"]  # fmt: skip
    assert prefixes_in(names) == []


def test_a_file_of_many_prefixes_costs_little():
    names = [f"{first}.{second}.down_blocks.0.weight" for first in range(200) for second in range(50)]
    assert len(prefixes_in([*names[:1], "unet.down_blocks.1"])) == 2
    with pytest.raises(InvalidCheckpoint, match="two models"):
        prefixes_in(names)


@pytest.mark.parametrize(
    "name", ["ema", "model_ema", "ema_model", "ema_0.9999", "params_ema", "net.ema.x", "shadow", "swa_model"]
)
def test_averages_are_known_by_their_names(name):
    assert is_average(name)


@pytest.mark.parametrize("name", ["schema", "model", "emanuel", "temadecoder", "swap", "unet", "averaging_head"])
def test_other_names_only_sound_alike(name):
    assert not is_average(name)
