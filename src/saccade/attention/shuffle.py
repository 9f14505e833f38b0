"""Shuffle attention: in each group of channels, one half is weighed by channel, the other by space; then all mix."""

# B batch, C channels, H W the map, G groups, n = C / 2G the channels of half a group

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade._checks import check_divides, check_int, check_map, largest_divisor
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.attention._shuffle import channel_shuffle
from saccade.errors import UsageError

PAPER = Paper(
    title="SA-Net: Shuffle Attention for Deep Convolutional Neural Networks",
    authors="Qing-Long Zhang, Yu-Bin Yang",
    year=2021,
    venue="ICASSP",
    arxiv="2102.00240",
    kind="gate",
    attends="channel+spatial",
    equations=(
        "(x0, x1) = the two halves of each of G groups of channels",
        "y0 = x0 * sigmoid(w1 mean(x0) + b1), the mean over H, W",
        "y1 = x1 * sigmoid(w2 norm(x1) + b2), norm a GroupNorm with one channel per group",
        "y = channel shuffle in 2 groups of concat(y0, y1)",
    ),
    deviations=(
        "G = 64 by default as in the paper; where C is no multiple of 128, the largest divisor of C / 2 below.",
        "As in the authors' code, all groups share w1, b1, w2, b2 and the affine of the norm.",
        "Mean and variance of the norm are computed in at least float32.",
    ),
    limits=(
        "An odd number of channels cannot be halved; it is an error.",
        (
            "The gate is the map before the final shuffle. A shuffle cannot be the identity, so start='identity' "
            "leaves it out and blends in the gate alone; start='paper' has it."
        ),
    ),
)

EPS = 1e-5


def shuffle_channel_gate(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The weight of every channel of the first halves: x (B, G, n, H, W), w1 and b1 (n,) -> (B, G, n, 1, 1)."""
    weight, bias = (p[:, None, None] for p in (weight, bias))
    return (weight * x.mean(dim=(3, 4), keepdim=True) + bias).sigmoid()


def shuffle_spatial_gate(x: Tensor, norm: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """The weight of every value of the second halves: x (B, G, n, H, W), each of the others (n,) -> as x.

    ``norm`` is the scale and the shift of the normalisation, which the same of the gate, w2 and b2, follow.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(x, dim=(3, 4), correction=0, keepdim=True)
    # Both scales and both shifts as one, so that the map is passed over once.
    scale, shift = ((weight * norm[0])[:, None, None], (weight * norm[1] + bias)[:, None, None])
    return ((x - mean) * (scale * (variance + EPS).rsqrt()) + shift).sigmoid()


class ShuffleAttention(Gate):
    """Shuffle attention (Zhang, Yang, ICASSP 2021, arXiv 2102.00240).

    Each of G groups of channels is halved; with parameters that the groups share::

        y0 = x0 * sigmoid(w1 mean(x0) + b1)     y1 = x1 * sigmoid(w2 norm(x1) + b2)
        y = channel_shuffle(concat(y0, y1), 2)

    The norm is that of one channel over the map, with a scale and a shift. The paper's W1, b1 are our
    ``channel_weight``, ``channel_bias``; W2, b2 ``spatial_weight``, ``spatial_bias``; its G our ``groups``. The scale
    and shift of its GroupNorm are ``norm_weight`` and ``norm_bias``.

    Args:
        channels: C, even.
        groups: G; 2 G divides C. ``None`` is the largest legal number not above 64, the paper's.

    W1 and W2 start at 0, b1 and b2 at 1, as the authors': every gate starts at sigmoid(1), about 0.73.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``groups`` below 1; odd ``channels``; a ``channels`` that is no multiple of
            2 ``groups``; a map with another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, groups: int | None = None) -> None:
        super().__init__()
        check_int("channels", channels)
        if channels % 2:
            raise UsageError(f"`channels` (={channels}) must be even: shuffle attention halves each group of channels")
        groups = largest_divisor(channels // 2, 64) if groups is None else groups
        check_int("groups", groups)
        check_divides("2 * groups", 2 * groups, "channels", channels)
        self.channels = channels
        self.groups = groups
        width = channels // (2 * groups)
        self.channel_weight = nn.Parameter(torch.zeros(width))
        self.channel_bias = nn.Parameter(torch.ones(width))
        self.spatial_weight = nn.Parameter(torch.zeros(width))
        self.spatial_bias = nn.Parameter(torch.ones(width))
        self.norm_weight = nn.Parameter(torch.ones(width))
        self.norm_bias = nn.Parameter(torch.zeros(width))

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied before the channels are shuffled, (B, C, H, W)."""
        check_map(x, self.channels, "shuffle")
        first, second = x.unflatten(1, (self.groups, 2, -1)).unbind(2)
        channel = shuffle_channel_gate(first, self.channel_weight, self.channel_bias)
        norm = (self.norm_weight, self.norm_bias)
        spatial = shuffle_spatial_gate(second, norm, self.spatial_weight, self.spatial_bias)
        return torch.stack((channel.to(spatial.dtype).expand_as(spatial), spatial), dim=2).flatten(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(super().forward(x), 2)
