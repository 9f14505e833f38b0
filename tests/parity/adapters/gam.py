"""Global attention mechanism: the article's code, public code with groups, a port with replicated borders."""

from __future__ import annotations

from typing import Any

from parity.adapted import Adapted, layer_names
from saccade.attention.gam import GlobalAttention
from saccade.errors import UsageError

ARTICLE = {"fc1": "channel_attention.0", "fc2": "channel_attention.2"} | {
    f"spatial.{layer}": f"spatial_attention.{layer}" for layer in (0, 1, 3, 4)
}
DENGBUQI = {
    "fc1": "linear1",
    "fc2": "linear2",
    "spatial.0": "conv1",
    "spatial.1": "norm1",
    "spatial.3": "conv2",
    "spatial.4": "norm2",
}


def of_article(*, in_channels: int, out_channels: int, rate: int = 4) -> Adapted:
    return _adapted(ARTICLE, in_channels, out_channels, "out_channels", reduction=rate)


def of_edited_article(*, in_channels: int, out_channels: int, rate: int = 4, channel_sigmoid: bool = True) -> Adapted:
    gate = "sigmoid" if channel_sigmoid else "none"
    return _adapted(ARTICLE, in_channels, out_channels, "out_channels", reduction=rate, channel_gate=gate)


def of_groups(*, c1: int, c2: int, group: bool = True, rate: int = 4, shuffle_groups: int = 4) -> Adapted:
    """That code shuffles whether or not its convolutions are grouped."""
    groups = rate if group else 1
    return _adapted(ARTICLE, c1, c2, "c2", reduction=rate, groups=groups, shuffle=shuffle_groups)


def of_dengbuqi(*, in_channels: int, out_channels: int, rate: int = 4) -> Adapted:
    return _adapted(DENGBUQI, in_channels, out_channels, "out_channels", reduction=rate, padding_mode="replicate")


def _adapted(theirs: dict[str, str], inputs: int, outputs: int, key: str, **options: Any) -> Adapted:
    if inputs != outputs:
        raise UsageError(f"`{key}` (={outputs}) must be {inputs}, the channels of the input: a gate keeps them")
    module = GlobalAttention(inputs, **options)
    return Adapted(module, layer_names(theirs, module))


ADAPTERS = {
    ("gam", "GAM article", "GAM_Attention"): of_article,
    ("gam", "GAM article + one edit", "GAM_Attention"): of_edited_article,
    (
        "gam",
        "public YOLO forks (text index ids 70773130374, 12472369316; repository name not given by the index)",
        "GAM_Attention (transcribed)",
    ): of_groups,
    ("gam", "dengbuqi/GAM_Pytorch", "CAM.py"): of_dengbuqi,
}
