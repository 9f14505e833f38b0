"""Triplet attention: a gate over each of the three pairs of axes of a map, averaged; some 300 parameters."""

# B batch, C channels, H W the map, K kernel size

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade._checks import check_bool, check_int, check_map
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.attention.cbam import check_kernel_size, gate_layers

PAPER = Paper(
    title="Rotate to Attend: Convolutional Triplet Attention Module",
    authors="Diganta Misra, Trikay Nalamada, Ajay Uppili Arasanipalai, Qibin Hou",
    year=2021,
    venue="WACV",
    arxiv="2010.03045",
    kind="gate",
    attends="channel+spatial",
    equations=(
        "Z_a(x) = [maximum of x over axis a; mean of x over axis a], for a = C, H, W",
        "g_a(x) = sigmoid(BN(conv7x7(Z_a(x)))), spread over axis a",
        "y = (x * g_C(x) + x * g_H(x) + x * g_W(x)) / 3",
    ),
    deviations=(
        "The three gates are averaged, and x is multiplied once: the same but for rounding.",
        (
            "No axis is rotated: kernels lie on (H, W), (C, W) and (C, H). The authors' code keeps the last on (H, C), "
            "which is ours with its two axes exchanged."
        ),
        "spatial=False leaves out g_C and averages the other two, as the authors' code.",
        "BatchNorm has the authors' momentum, 0.01; layers start as PyTorch's do.",
        "Where the BatchNorm has a single value in train mode, it uses running statistics.",
    ),
    limits=("The convolution runs over channels: their order matters, and neighbours are those of the host.",),
)


def z_pool(x: Tensor, axis: int) -> Tensor:
    """Maximum and mean of x (B, C, H, W) over an axis, as two channels of a map of the other two: (B, 2, ., .)."""
    return torch.stack((x.amax(dim=axis), x.mean(dim=axis)), dim=1)


class TripletAttention(Gate):
    """Triplet attention (Misra et al., WACV 2021, arXiv 2010.03045).

    ``y = x * (g_C(x) + g_H(x) + g_W(x)) / 3``: every gate comes from the maximum and the mean over one axis, by a
    7 x 7 convolution over the other two with BatchNorm and a sigmoid. The paper's Z-pool is :func:`z_pool`, its k
    ``kernel_size``.

    Args:
        channels: C; no parameter depends on it.
        kernel_size: the paper's k, 7; odd.
        spatial: whether there is the gate over (H, W).

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``kernel_size`` below 1; an even ``kernel_size``; a ``spatial`` that is no bool; a
            map with another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, kernel_size: int = 7, spatial: bool = True) -> None:
        super().__init__()
        check_int("channels", channels)
        check_kernel_size(kernel_size)
        check_bool("spatial", spatial)
        self.channels = channels
        self.spatial = gate_layers(kernel_size, 0.01) if spatial else None
        self.channel_width = gate_layers(kernel_size, 0.01)
        self.channel_height = gate_layers(kernel_size, 0.01)

    def gates(self, x: Tensor) -> list[Tensor]:
        """The gates over (H, W), (C, W) and (C, H), each of size 1 on the axis that it was pooled over."""
        check_map(x, self.channels, "triplet")
        branches: tuple[nn.Module | None, ...] = (self.spatial, self.channel_width, self.channel_height)
        return [
            layers(z_pool(x, axis)).sigmoid().squeeze(1).unsqueeze(axis)
            for axis, layers in enumerate(branches, start=1)
            if layers is not None
        ]

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied, the mean of the gates, (B, C, H, W)."""
        first, *others = self.gates(x)
        return sum(others, start=first) / (1 + len(others))
