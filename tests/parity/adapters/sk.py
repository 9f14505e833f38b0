"""Selective kernels: timm's, and the first author's later block."""

from __future__ import annotations

from parity.adapted import Adapted, layer_names
from saccade.attention.sk import SelectiveKernel2d


def of_timm(
    *,
    in_channels: int,
    out_channels: int | None = None,
    split_input: bool = True,
    groups: int = 1,
    keep_3x3: bool = True,
    rd_channels: int | None = None,
) -> Adapted:
    out_channels = out_channels or in_channels
    width = rd_channels or _rounded_width(out_channels)
    module = SelectiveKernel2d(
        in_channels,
        out_channels,
        3,
        dilated=keep_3x3,
        branch_groups=min(out_channels, groups),
        split_input=split_input,
        **_width(out_channels, width),
    )
    theirs = {"reduce": "attn.fc_reduce", "norm": "attn.bn", "select": "attn.fc_select"}
    for branch in range(2):
        theirs |= {f"branches.{branch}.0": f"paths.{branch}.conv", f"branches.{branch}.1": f"paths.{branch}.bn"}
    return Adapted(module, layer_names(theirs, module))


def of_author(*, planes: int, groups_g: int = 32, fc_hidden: int | None = None) -> Adapted:
    width = planes // 16 if fc_hidden is None else fc_hidden
    module = SelectiveKernel2d(
        planes, planes, 3, dilations=(1, 1), branch_groups=(1, groups_g), **_width(planes, width)
    )
    theirs = {
        "branches.0.0": "conv2",
        "branches.0.1": "bn2",
        "branches.1.0": "conv2g",
        "branches.1.1": "bn2g",
        "reduce": "conv_fc1",
        "norm": "bn_fc1",
        "select": "conv_fc2",
    }
    return Adapted(module, layer_names(theirs, module))


def _width(channels: int, width: int) -> dict[str, int]:
    """Options that give a hidden width of any size."""
    return {"reduction": channels, "min_width": width}


def _rounded_width(channels: int) -> int:
    """A sixteenth of the channels as a multiple of 8, not below 9 tenths of it."""
    width = max(8, int(channels / 16 + 4) // 8 * 8)
    return width + 8 if width < 0.9 * channels / 16 else width


ADAPTERS = {
    ("sk", "huggingface/pytorch-image-models (timm wheel)", "timm/layers/selective_kernel.py"): of_timm,
    ("sk", "implus/PytorchInsight", "classification/models/imagenet/resnet_sk.py"): of_author,
}
