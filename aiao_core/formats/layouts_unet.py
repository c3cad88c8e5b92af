"""The original layout of Stable Diffusion's UNets, whose blocks CompVis and Stability AI number through.

Here the names follow from a calculation: a block of diffusers is one input block for each of its residual blocks, with its
attention beside it, and one for its change of size.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from aiao_core.formats.layouts import OriginalNames, Rows

LAYERS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding": "label_emb",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCK = re.compile(r"(down|mid|up)_block(?:s\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def unet_names(registered: Mapping[str, Tensor]) -> OriginalNames:
    """Return the original names of a UNet with the ``registered`` tensors, which may be without numbers."""
    resnets = len({match[1] for name in registered if (match := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))})
    attentive = {match[1] for name in registered if (match := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    rows: dict[str, Rows] = {}
    layers: dict[str, Rows] = {}
    for name in registered:
        layer, dot, kind = name.rpartition(".")
        original = LAYERS.get(layer) or _in_block(layer, resnets, attentive) or layer
        rows[original + dot + kind] = Rows((name,))
        if kind == "weight":
            layers[original] = Rows((layer,))
    return OriginalNames(rows, layers)


def _in_block(layer: str, resnets: int, attentive: set[str]) -> str | None:
    """Return the original name of a layer in a block, for ``resnets`` in each downward block; None for another layer.

    ``attentive`` are the numbers of the upward blocks with attention.
    """
    if not (match := BLOCK.fullmatch(layer)):
        return None
    side, block, module, index, rest = match.groups()
    if module == "resnets":
        rest = RESNET.get(rest, rest)
    if side == "mid":
        return f"middle_block.{2 * int(index) if module == 'resnets' else 1}.{rest}"
    first = int(block or 0) * (resnets + 1)
    match side, module:
        case "down", "downsamplers":
            return f"input_blocks.{first + resnets + 1}.0.op"
        case "down", _:
            return f"input_blocks.{first + int(index) + 1}.{int(module == 'attentions')}.{rest}"
        case _, "upsamplers":
            return f"output_blocks.{first + resnets}.{2 if block in attentive else 1}.{rest}"
        case _:
            return f"output_blocks.{first + int(index)}.{int(module == 'attentions')}.{rest}"
