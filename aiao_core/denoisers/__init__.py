"""The families of denoisers that the method can watermark, behind one interface.

    prediction = predict(denoiser, inputs)
    inputs = Inputs(noisy, timesteps, family_of(denoiser).random_conditions(denoiser.config, len(noisy), generator))

A package may bring further families as entry points of the group ``aiao.denoisers``, each a :class:`DenoiserFamily`.
"""

from importlib.metadata import entry_points
from typing import Any

from torch import Tensor, nn

from aiao_core.denoisers.aura_flow import AuraFlow
from aiao_core.denoisers.chroma import Chroma
from aiao_core.denoisers.cogvideox import CogVideoX
from aiao_core.denoisers.cosmos import Cosmos
from aiao_core.denoisers.dit import DiT
from aiao_core.denoisers.ernie_image import ErnieImage
from aiao_core.denoisers.family import Conditions, DenoiserFamily, Inputs
from aiao_core.denoisers.flux import Flux
from aiao_core.denoisers.flux2 import Flux2
from aiao_core.denoisers.hidream import HiDream
from aiao_core.denoisers.hunyuan import HunyuanImage, HunyuanVideo
from aiao_core.denoisers.kandinsky5 import Kandinsky5
from aiao_core.denoisers.krea2 import Krea2
from aiao_core.denoisers.ltx import LTX, LTX2
from aiao_core.denoisers.lumina2 import Lumina2
from aiao_core.denoisers.pixart import PixArt
from aiao_core.denoisers.qwen_image import QwenImage
from aiao_core.denoisers.sana import Sana
from aiao_core.denoisers.sd3 import SD3
from aiao_core.denoisers.sound import AceStep, StableAudio
from aiao_core.denoisers.unet import UNet2D
from aiao_core.denoisers.unet_condition import UNet2DCondition
from aiao_core.denoisers.wan import Wan
from aiao_core.denoisers.z_image import ZImage
from aiao_core.errors import WrongArchitecture

__all__ = ["Conditions", "DenoiserFamily", "Inputs", "family_named", "family_of", "predict", "register", "supported"]

_families: dict[str, DenoiserFamily] = {}


def register(family: type[DenoiserFamily]) -> None:
    """Make a family known by the name of its denoiser's class."""
    _families[family.denoiser.__name__] = family()


def supported() -> list[str]:
    """Return the names of the classes of denoisers that have a family."""
    return list(_families)


def family_named(class_name: Any) -> DenoiserFamily:
    """Look up the family of a denoiser's class by its name, which a configuration gives and may be anything.

    Raises :class:`WrongArchitecture` if there is none.
    """
    family = _families.get(class_name) if isinstance(class_name, str) else None
    if family is None:
        raise WrongArchitecture(
            f"the denoiser is a {class_name!s:.100}; supported: {', '.join(sorted(supported()))}. For another class write "
            "a family of your own: its denoiser, side, random_conditions and predict, as docs/families.md shows"
        )
    return family


def family_of(denoiser: nn.Module) -> DenoiserFamily:
    """Look up the family of a denoiser."""
    return family_named(type(denoiser).__name__)


def predict(denoiser: nn.Module, inputs: Inputs) -> Tensor:
    """Return the denoiser's prediction for ``inputs``, shaped like ``inputs.noisy``, on the denoiser's device."""
    device = next(denoiser.parameters()).device
    # Weights that accelerate has offloaded are on no device: it moves the inputs itself.
    return family_of(denoiser).predict(denoiser, inputs if device.type == "meta" else inputs.to(device))


for _family in (
    UNet2D, UNet2DCondition, DiT, PixArt, SD3, Flux,
    Chroma, QwenImage, Flux2, ZImage, Lumina2, Krea2, HiDream, HunyuanImage, ErnieImage, Sana, AuraFlow, Cosmos,
    Wan, HunyuanVideo, LTX, LTX2, CogVideoX, Kandinsky5,
    StableAudio, AceStep,
):  # fmt: skip
    register(_family)
for _entry_point in entry_points(group="aiao.denoisers"):
    register(_entry_point.load())
