"""Spatial group-wise enhance: weigh positions, in each group of channels, by their likeness to the group's mean."""

# B batch, C channels, H W the map, G groups

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade._checks import check_divides, check_int, check_map, largest_divisor
from saccade.attention._base import Gate
from saccade.attention._card import Paper

PAPER = Paper(
    title="Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
    authors="Xiang Li, Xiaolin Hu, Jian Yang",
    year=2019,
    venue="arXiv",
    arxiv="1905.09646",
    kind="gate",
    attends="spatial",
    equations=(
        "g = mean of x over H, W",
        "c = g . x at every position, over the channels of each group",
        "c' = (c - mean of c) / (std of c + 1e-5), both over H, W",
        "a = gamma c' + beta, one gamma and one beta per group",
        "y = sigmoid(a) * x",
    ),
    deviations=(
        "G = 64 by default as in the paper, or the largest divisor of C below.",
        "The standard deviation is the unbiased one, as in the authors' code.",
        "On a single position, which has no deviation, H W - 1 is taken as 1: the gate is sigmoid(beta).",
        "Likeness, mean and deviation are computed in at least float32.",
    ),
)


def sge_map(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The weight of every position in every group: x (B, C, H, W), weight and bias (G,) -> (B, G, H, W) in (0, 1)."""
    x = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (weight.shape[0], -1))
    likeness = (x * x.mean(dim=(3, 4), keepdim=True)).sum(dim=2)
    centred = likeness - likeness.mean(dim=(2, 3), keepdim=True)
    freedom = torch.sym_max(likeness.shape[2] * likeness.shape[3] - 1, 1)
    # The norm, and not the root of a sum: at a constant map it has the gradient zero.
    std = torch.linalg.vector_norm(centred, dim=(2, 3), keepdim=True) / freedom**0.5
    return (centred / (std + 1e-5) * weight[:, None, None] + bias[:, None, None]).sigmoid()


class SpatialGroupEnhance(Gate):
    """Spatial group-wise enhance (Li, Hu, Yang, arXiv 1905.09646).

    ``y = x * sigmoid(gamma c' + beta)`` in each group of channels: c is the product of every position with the mean
    over the map, over the group's channels, and c' is c less its mean, over its standard deviation + 1e-5. The paper's
    gamma and beta are our ``weight`` and ``bias``, its G our ``groups``, its epsilon 1e-5.

    Args:
        channels: C.
        groups: G, a divisor of C; ``None`` is the largest divisor not above 64, the paper's number.

    ``weight`` starts at 0 and ``bias`` at 1, as the authors': every gate starts at sigmoid(1), about 0.73.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``groups`` below 1; ``groups`` that do not divide ``channels``; a map with another
            number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, groups: int | None = None) -> None:
        super().__init__()
        check_int("channels", channels)
        groups = largest_divisor(channels, 64) if groups is None else groups
        check_int("groups", groups)
        check_divides("groups", groups, "channels", channels)
        self.channels = channels
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(groups))
        self.bias = nn.Parameter(torch.ones(groups))

    def spatial_map(self, x: Tensor) -> Tensor:
        """The weight of every position in every group, (B, G, H, W)."""
        check_map(x, self.channels, "sge")
        return sge_map(x, self.weight, self.bias)

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied: that of its group for every channel, (B, C, H, W)."""
        width = self.channels // self.groups
        return self.spatial_map(x)[:, :, None].expand(-1, -1, width, -1, -1).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        # As x * gate(x), without a copy of a group's map for each of its channels.
        weights = self.spatial_map(x)[:, :, None].to(x.dtype)
        return (x.unflatten(1, (self.groups, -1)) * weights).flatten(1, 2)
