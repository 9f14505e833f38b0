"""Efficient channel attention: weigh each channel by a short convolution over its neighbours' means."""

# B batch, C channels, H W the map, K kernel over channels

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_int, check_map, check_number
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.errors import UsageError

PAPER = Paper(
    title="ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
    authors="Qilong Wang, Banggu Wu, Pengfei Zhu, Peihua Li, Wangmeng Zuo, Qinghua Hu",
    year=2020,
    venue="CVPR",
    arxiv="1910.03151",
    kind="gate",
    attends="channel",
    equations=(
        "z = mean of x over H, W",
        "s[c] = sigmoid(sum over k of w[k] z[c + k - (K - 1) / 2]), z = 0 beyond the channels",
        "K = |log2(C) / gamma + b / gamma|, made odd",
        "y = s * x",
    ),
    deviations=(
        (
            "K follows the paper's rule. The authors' module takes K as an argument, and their ResNets a list set by "
            "hand: 3, 5, 5, 7 for the stages of ResNet-50, where the rule gives 5, 5, 5, 7. kernel_size gives theirs."
        ),
        "Made odd as in the authors' code: rounded down to an integer, and an even one goes up.",
        "shared=False is the authors' variant with an own kernel for every channel (their eca_ns.py).",
    ),
)


def eca_kernel_size(channels: int, gamma: float = 2, b: float = 1) -> int:
    """The odd kernel size of efficient channel attention for C channels: |(log2 C + b) / gamma|, made odd upwards."""
    size = int(abs((math.log2(channels) + b) / gamma))
    return size if size % 2 else size + 1


def eca_gate(x: Tensor, weight: Tensor) -> Tensor:
    """The weight of every channel: x (B, C, H, W), kernel (1, K) or kernels (C, K) -> (B, C, 1, 1) in (0, 1)."""
    size = weight.shape[1]
    neighbours = F.pad(x.mean(dim=(2, 3)), (size // 2, size // 2)).unfold(1, size, 1)
    return (neighbours * weight).sum(dim=2).sigmoid()[:, :, None, None]


class EfficientChannelAttention(Gate):
    """Efficient channel attention (Wang et al., CVPR 2020, arXiv 1910.03151).

    ``y = x * sigmoid(conv1d(mean(x)))``, the mean over the map, the convolution over the channels without bias and
    with zeros beyond the first and the last. The paper's k is our ``kernel_size``; its gamma and b the same.

    Args:
        channels: C.
        kernel_size: K, an odd number; ``None`` is the paper's rule, :func:`eca_kernel_size`.
        gamma, b: of that rule, 2 and 1; not used where ``kernel_size`` is given.
        shared: one kernel for all channels; ``False`` gives each channel its own.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``kernel_size`` below 1; an even ``kernel_size``; ``gamma`` not from 0.01 to 100 or
            ``b`` not from -100 to 100; a ``shared`` that is not a bool; a map with another number of channels.
    """

    paper = PAPER

    def __init__(
        self, channels: int, *, kernel_size: int | None = None, gamma: float = 2, b: float = 1, shared: bool = True
    ) -> None:
        super().__init__()
        check_int("channels", channels)
        check_number("gamma", gamma, low=0.01, high=100)
        check_number("b", b, low=-100, high=100)
        check_bool("shared", shared)
        size = eca_kernel_size(channels, gamma, b) if kernel_size is None else kernel_size
        check_int("kernel_size", size)
        if size % 2 == 0:
            raise UsageError(f"`kernel_size` (={size}) must be odd: as many neighbours before a channel as after it")
        self.channels = channels
        self.weight = nn.Parameter(torch.empty(1 if shared else channels, size))
        # As a convolution of PyTorch's, which the authors' code uses.
        nn.init.uniform_(self.weight, -(size**-0.5), size**-0.5)

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied, (B, C, 1, 1)."""
        check_map(x, self.channels, "eca")
        return eca_gate(x, self.weight)
