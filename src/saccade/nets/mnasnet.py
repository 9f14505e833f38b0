"""MnasNet-A1 at any width; timm names four of them."""

from __future__ import annotations

from torch import nn


def mnasnet_a1(*, width: float = 1.0, in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """timm's MnasNet-A1, with squeeze-and-excitation (Tan et al., CVPR 2019), of ``width`` times the channels.

    timm's ``semnasnet_075``, ``_100`` and ``_140`` are those of widths 0.75, 1.0 and 1.4.
    """
    from timm.models import efficientnet

    make = efficientnet._gen_mnasnet_a1  # pyright: ignore[reportPrivateUsage] # timm names no width of 1.25
    return make("semnasnet_100", width, in_chans=in_channels, num_classes=num_classes)
