"""The families of denoisers that the method can watermark, behind one interface.

    prediction = predict(denoiser, inputs)
    inputs = Inputs(noisy, timesteps, adapter_of(denoiser).random_conditions(denoiser.config, len(noisy), generator))

A package may bring further families as entry points of the group ``aiao.denoisers``, each a :class:`DenoiserAdapter`.
"""

from importlib.metadata import entry_points
from typing import Any

from torch import Tensor, nn

from aiao_core.denoisers.adapter import Conditions, DenoiserAdapter, Inputs
from aiao_core.denoisers.dit import DiT
from aiao_core.denoisers.flux import Flux
from aiao_core.denoisers.pixart import PixArt
from aiao_core.denoisers.sd3 import SD3
from aiao_core.denoisers.unet import UNet2D
from aiao_core.denoisers.unet_condition import UNet2DCondition
from aiao_core.errors import WrongArchitecture

__all__ = ["Conditions", "DenoiserAdapter", "Inputs", "adapter_named", "adapter_of", "predict", "register"]

_adapters: dict[str, DenoiserAdapter] = {}


def register(adapter: type[DenoiserAdapter]) -> None:
    """Make a family known by the name of its denoiser's class."""
    _adapters[adapter.denoiser.__name__] = adapter()


def adapter_named(class_name: Any) -> DenoiserAdapter:
    """The adapter of a denoiser's class, by its name, whatever a configuration gives for one.

    Raises :class:`WrongArchitecture` if there is none.
    """
    adapter = _adapters.get(class_name) if isinstance(class_name, str) else None
    if adapter is None:
        raise WrongArchitecture(
            f"the denoiser is a {class_name!s:.100}; supported: {', '.join(sorted(_adapters))}. For another class write "
            "an adapter: its denoiser, side, random_conditions and predict, as docs/adapters.md shows"
        )
    return adapter


def adapter_of(denoiser: nn.Module) -> DenoiserAdapter:
    """The adapter of a denoiser."""
    return adapter_named(type(denoiser).__name__)


def predict(denoiser: nn.Module, inputs: Inputs) -> Tensor:
    """The denoiser's prediction for ``inputs``, shaped like ``inputs.noisy``, on the denoiser's device."""
    device = next(denoiser.parameters()).device
    # Weights that accelerate has offloaded are on no device: it moves the inputs itself.
    return adapter_of(denoiser).predict(denoiser, inputs if device.type == "meta" else inputs.to(device))


for _family in (UNet2D, UNet2DCondition, DiT, PixArt, SD3, Flux):
    register(_family)
for _entry_point in entry_points(group="aiao.denoisers"):
    register(_entry_point.load())
