"""MnasNet-A1 at any width; timm names three of them."""

from __future__ import annotations

from typing import Any

from torch import nn


def mnasnet_a1(
    *,
    width: float = 1.0,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    in_channels: int = 3,
    num_classes: int = 1000,
) -> nn.Module:
    """timm's MnasNet-A1, with squeeze-and-excitation (Tan et al., CVPR 2019), of ``width`` times the channels.

    timm's ``semnasnet_075``, ``_100`` and ``_140`` are those of widths 0.75, 1.0 and 1.4. The rates of dropout are
    timm's: before the classifier, and of the blocks' branches.
    """
    from timm.models import efficientnet

    make: Any = efficientnet._gen_mnasnet_a1  # pyright: ignore[reportPrivateUsage] # timm names no width of 1.25
    rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    # No weights of timm's fit: they are those of its own widths.
    about = {"architecture": "mnasnet_a1", "input_size": (in_channels, 224, 224), "num_classes": num_classes,
             "first_conv": "conv_stem", "classifier": "classifier"}  # fmt: skip
    model = make("mnasnet_a1", width, pretrained_cfg=about, in_chans=in_channels, num_classes=num_classes, **rates)
    # What builds this network again, but for the classes; timm's class does not tell that it is ours.
    model.config, model.made_by = {"width": width, **rates, "in_channels": in_channels}, "mnasnet_a1"
    return model
