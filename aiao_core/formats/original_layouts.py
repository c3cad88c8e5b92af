"""Read and write single files in the original layout of a family: the names and rows of the program that first trained it.

The registered model's tensors decide what has a place, never a configuration from the file.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from aiao_core.errors import InvalidCheckpoint, WrongArchitecture
from aiao_core.formats import layouts_joint as joint
from aiao_core.formats import layouts_single as single
from aiao_core.formats.layouts import OriginalNames
from aiao_core.formats.layouts_unet import unet_names
from aiao_core.formats.names import DIFFUSERS
from aiao_core.formats.other_inputs import optional_tensors
from aiao_core.formats.quantized import check_plain
from aiao_core.formats.recognize import UNKNOWN, Recognized
from aiao_core.formats.weight_files import Weights

LAYOUTS: dict[str, Callable[[Mapping[str, Tensor]], OriginalNames]] = {
    "UNet2DConditionModel": unet_names,
    "SD3Transformer2DModel": joint.SD3.names,
    "FluxTransformer2DModel": joint.FLUX.names,
    "ChromaTransformer2DModel": joint.CHROMA.names,
    "Flux2Transformer2DModel": joint.FLUX2.names,
    "WanTransformer3DModel": single.WAN.names,
    "ZImageTransformer2DModel": single.Z_IMAGE.names,
    "Lumina2Transformer2DModel": single.LUMINA2.names,
    "AuraFlowTransformer2DModel": joint.AURA_FLOW.names,
    "SanaTransformer2DModel": single.SANA.names,
    "LTXVideoTransformer3DModel": single.LTX.names,
    "HunyuanVideoTransformer3DModel": joint.HUNYUAN_VIDEO.names,
}
"""By the class of the denoiser in diffusers. A class without one has the same names in both, or no layout that is read here."""


def original_names(class_name: str, registered: Mapping[str, Tensor]) -> OriginalNames:
    """Return the original names of a denoiser with the ``registered`` tensors; none for a class without a layout."""
    names = LAYOUTS.get(class_name)
    return names(registered) if names else OriginalNames({}, {})


def check_layout(recognized: Recognized, class_name: str) -> None:
    """Check that what was recognized may be a denoiser of the registered class, in a layout that can be read.

    Raises :class:`WrongArchitecture` for another kind of model or half of one, and :class:`InvalidCheckpoint` for a layout that
    diffusers does not read.
    """
    if recognized.foreign:
        raise WrongArchitecture(f"this is {recognized.foreign}; submit the denoiser, or an adapter merged into its base model")
    if recognized.inferred != UNKNOWN:
        raise _wrong(recognized.inferred, class_name)
    family = recognized.family
    if family is None or family is DIFFUSERS:
        return
    found = ", ".join(head for head in family.heads if head in recognized.heads)
    if family.class_name != class_name:
        raise _wrong(f"{family.words} ({found})", class_name)
    if family.class_name not in LAYOUTS:
        raise InvalidCheckpoint(
            f"this is {family.words} in its original layout ({found}), which is not read here; convert it with the "
            "script that diffusers has for it and submit the folder that the script writes"
        )
    if not recognized.heads.issuperset(family.heads):
        raise WrongArchitecture(f"of {family.words} only {found} are here; the checkpoint is incomplete")


def _wrong(found: str, class_name: str) -> WrongArchitecture:
    return WrongArchitecture(
        f"this is a single file of {found}, but the registered model is a {class_name}; submit the denoiser of such a model"
    )


def to_diffusers(weights: Weights, recognized: Recognized, class_name: str, registered: Weights) -> tuple[Weights, str | None]:
    """Return the denoiser's weights by their diffusers names, from every layout that :func:`check_layout` lets pass.

    The second is the original layout in words, if the weights had it. VAE, text encoders and, beside other weights, moving
    averages are left out; a tensor that the file lacks is missing in the result. Raises :class:`WrongArchitecture` if the file
    holds tensors that have no place, and :class:`InvalidCheckpoint` for tensors that only claim memory.
    """
    part = recognized.part(weights)
    registered = {name: torch.empty(0, device="meta") for name in optional_tensors(class_name)} | registered
    names = original_names(class_name, registered)
    # Some original layouts share most names with diffusers' own, so that these fit too.
    if sum(name in names.rows for name in part) <= sum(name in registered for name in part):
        return part, None
    check_plain(part)
    words = recognized.layout or f"single file in the original layout of a {class_name}"
    return names.to_diffusers(part, registered, words), words
