"""Squeeze-and-Excitation."""

from __future__ import annotations

from parity.adapted import Adapted
from saccade.attention.se import SqueezeExcitation


def of_moskomule(*, channel: int, reduction: int) -> Adapted:
    names = {"fc.0.weight": "fc1.weight", "fc.2.weight": "fc2.weight"}
    return Adapted(SqueezeExcitation(channel, reduction=reduction, bias=False), names)


def of_timm(*, channels: int, rd_channels: int | None = None, bias: bool = True) -> Adapted:
    # timm's own default is a sixteenth, rounded to a multiple of 8, up or down.
    width = rd_channels or max(8, int(channels / 16 + 4) // 8 * 8)
    module = SqueezeExcitation(channels, width=width, bias=bias)
    return Adapted(module, {name: name for name, _ in module.named_parameters()})


ADAPTERS = {
    ("se", "moskomule/senet.pytorch", "senet/se_module.py"): of_moskomule,
    ("se", "huggingface/pytorch-image-models (timm wheel)", "timm/layers/squeeze_excite.py"): of_timm,
}
