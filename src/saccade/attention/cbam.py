"""Convolutional block attention: a weight for each channel from several pools, then one for each position."""

# B batch, C channels, H W the map, R hidden width, P number of pools, K kernel size

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saccade._checks import check_bool, check_choice, check_int, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d
from saccade.errors import UsageError

PAPER = Paper(
    title="CBAM: Convolutional Block Attention Module",
    authors="Sanghyun Woo, Jongchan Park, Joon-Young Lee, In So Kweon",
    year=2018,
    venue="ECCV",
    arxiv="1807.06521",
    kind="gate",
    attends="channel+spatial",
    equations=(
        "M_c(x) = sigmoid(MLP(mean of x over H, W) + MLP(maximum of x over H, W)), MLP(z) = W2 relu(W1 z + b1) + b2",
        "x' = M_c(x) * x",
        "M_s(x') = sigmoid(conv7x7([mean of x' over C; maximum of x' over C]))",
        "y = M_s(x') * x'",
    ),
    deviations=(
        (
            "The paper's spatial gate is a convolution of [mean; maximum] and nothing else (from memory). The authors' "
            "code takes [maximum; mean] and has a BatchNorm after the convolution, momentum 0.01, whose scale their "
            'networks start at 0: spatial="authors". timm\'s has [mean; maximum] and a usual BatchNorm: spatial="timm".'
        ),
        "The spatial convolution has no bias, as in the authors' code; the paper's equation writes none (from memory).",
        "Biases of the perceptron are the authors'; timm has none: bias=False.",
        'The pools "lp" (Euclidean norm) and "lse" (log-sum-exp) are the authors\' code\'s, not the paper\'s.',
        "R = max(1, C // reduction); the authors' code has no minimum.",
        "Other layers than that BatchNorm start as PyTorch's do.",
        "Where the BatchNorm has a single value in train mode (batch 1 on a 1 x 1 map), it uses running statistics.",
    ),
)

POOLS = {
    "avg": lambda x: x.mean(dim=(2, 3)),
    "max": lambda x: x.amax(dim=(2, 3)),
    "lp": lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),
    "lse": lambda x: x.logsumexp(dim=(2, 3)),
}
# The momentum of the BatchNorm after the spatial convolution; None: no BatchNorm.
MOMENTA = {"paper": None, "authors": 0.01, "timm": 0.1}


def cbam_channel_gate(x: Tensor, pools: tuple[str, ...], mlp: nn.Module) -> Tensor:
    """One perceptron on every pool of x (B, C, H, W), the sum through one sigmoid -> (B, C, 1, 1) in (0, 1)."""
    pooled = torch.stack([POOLS[pool](x) for pool in pools], dim=1)
    return mlp(pooled).sum(1).sigmoid()[:, :, None, None]


def cbam_spatial_gate(x: Tensor, layers: nn.Module, max_first: bool) -> Tensor:
    """A gate from the mean and the maximum over the channels of x (B, C, H, W) -> (B, 1, H, W) in (0, 1)."""
    descriptors = [x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)]
    return layers(torch.cat(descriptors[::-1] if max_first else descriptors, dim=1)).sigmoid()


def check_kernel_size(kernel_size: int) -> None:
    """The kernel of a gate must have a middle."""
    check_int("kernel_size", kernel_size)
    if kernel_size % 2 == 0:
        raise UsageError(f"`kernel_size` (={kernel_size}) must be odd: the gate keeps the size of the map")


def gate_layers(kernel_size: int, momentum: float | None) -> nn.Sequential:
    """From two maps to the logits of a gate: a K x K convolution, and a BatchNorm unless its momentum is None."""
    conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv) if momentum is None else nn.Sequential(conv, BatchNorm2d(1, momentum=momentum))


class ConvBlockAttention(Gate):
    """Convolutional block attention module (Woo et al., ECCV 2018, arXiv 1807.06521).

    ``y = M_s(x') * x'`` with ``x' = M_c(x) * x``: ``M_c`` is the sigmoid of the summed outputs of one perceptron
    C -> R -> C on the pools of the map, ``M_s`` that of a 7 x 7 convolution of the mean and the maximum over channels.
    The paper's F, F', F'' are our x, x', y; its r our ``reduction``.

    Args:
        channels: C.
        reduction: the paper's r, 16; the hidden width is ``max(1, C // reduction)``.
        width: the hidden width itself, from 1 to C, in the place of ``C // reduction``.
        kernel_size: of the spatial convolution, 7; odd.
        bias: whether the two layers of the perceptron have biases.
        pools: what the perceptron reads, each at most once: ``"avg"``, ``"max"``, ``"lp"`` (the Euclidean norm),
            ``"lse"`` (the logarithm of the sum of exponentials).
        spatial: ``"paper"`` has a convolution of [mean; maximum]; ``"authors"`` one of [maximum; mean] with a BatchNorm
            of momentum 0.01 that starts at scale 0, so this gate at one half; ``"timm"`` one of [mean; maximum] with a
            usual BatchNorm; ``"none"`` leaves the spatial gate out.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels``, ``reduction`` or ``kernel_size`` below 1; a ``width`` not from 1 to C; an even
            ``kernel_size``; a ``bias`` that is no bool; no pool, an unknown one or one given twice; an unknown
            ``spatial``; a map with another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        width: int | None = None,
        kernel_size: int = 7,
        bias: bool = True,
        pools: tuple[str, ...] = ("avg", "max"),
        spatial: str = "paper",
    ) -> None:
        super().__init__()
        check_kernel_size(kernel_size)
        check_bool("bias", bias)
        _check_pools(pools)
        check_choice("spatial", spatial, (*MOMENTA, "none"))
        width = hidden_width(channels, reduction, width)
        self.channels = channels
        self.pools = tuple(pools)
        self.mlp = nn.Sequential(
            nn.Linear(channels, width, bias=bias), nn.ReLU(inplace=True), nn.Linear(width, channels, bias=bias)
        )
        self.spatial = None if spatial == "none" else gate_layers(kernel_size, MOMENTA[spatial])
        self.max_first = spatial == "authors"
        if spatial == "authors":
            nn.init.zeros_(self.get_parameter("spatial.1.weight"))

    def channel_map(self, x: Tensor) -> Tensor:
        """M_c, (B, C, 1, 1)."""
        check_map(x, self.channels, "cbam")
        return cbam_channel_gate(x, self.pools, self.mlp).to(x.dtype)

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied in all, M_c(x) * M_s(x'), (B, C, H, W); (B, C, 1, 1) without M_s."""
        channel = self.channel_map(x)
        if self.spatial is None:
            return channel
        return channel * cbam_spatial_gate(x * channel, self.spatial, self.max_first)

    def forward(self, x: Tensor) -> Tensor:
        # The paper's order: the spatial gate reads x', which needs not be made twice.
        x = x * self.channel_map(x)
        return x if self.spatial is None else x * cbam_spatial_gate(x, self.spatial, self.max_first).to(x.dtype)


def _check_pools(pools: Any) -> None:
    if not isinstance(pools, tuple | list) or not pools:
        raise UsageError(f"`pools` (={pools!r}) must be a tuple of at least one of {', '.join(map(repr, POOLS))}")
    for pool in pools:
        check_choice("pools", pool, POOLS)
    if len(set(pools)) < len(pools):
        raise UsageError(f"`pools` (={pools!r}) must name each pool at most once")
