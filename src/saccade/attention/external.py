"""External attention: positions look up a small learned memory instead of each other."""

# B batch, C channels, H W the map, S memories

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_int, check_map
from saccade.attention._base import Additive
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d

PAPER = Paper(
    title="Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
    authors="Meng-Hao Guo, Zheng-Ning Liu, Tai-Jiang Mu, Shi-Min Hu",
    year=2021,
    venue="arXiv",
    arxiv="2105.02358",
    kind="context",
    attends="positions",
    equations=(
        "F = W_1 x + b_1",
        "a = softmax over positions of M_k F, S maps",
        "A = a / (1e-9 + sum of a over the S memories)",
        "y = x + BN(W_2 M_v A)",
    ),
    deviations=(
        (
            "The paper's equation is the attention alone; the two 1 x 1 convolutions, BatchNorm (momentum 3e-4) and "
            "the addition are the authors' published block. relu=True gives the ReLU that ends it."
        ),
        (
            "Convolutions and memories start from N(0, 2 / output channels), as in the authors' code. There the "
            "memory of keys begins as the transposed memory of values, on the CPU even in the same storage; here it "
            "begins as a copy, and both are learned apart."
        ),
        "The authors' BatchNorm is synchronised between devices; ours is not by itself.",
        "Where a channel has a single value in train mode (batch 1 on a 1 x 1 map), BatchNorm uses running statistics.",
    ),
    limits=(
        "Positions meet each other only in the softmax over positions; what they read is the memory.",
        "On a 1 x 1 map the softmax over positions is 1 whatever the map holds: the term is a constant.",
    ),
)


def external_attention(x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The lookup: x (B, C, H, W), keys (S, C, 1, 1), values (C, S, 1, 1) -> (B, C, H, W)."""
    logits = F.conv2d(x, keys).flatten(2)
    # In float32 at least: in float16 1e-9 is 0, and all weights of a position can be.
    weights = logits.softmax(dim=2, dtype=torch.promote_types(logits.dtype, torch.float32))
    weights = weights / (1e-9 + weights.sum(dim=1, keepdim=True))
    return F.conv2d(weights.unflatten(2, x.shape[-2:]).to(x.dtype), values)


class ExternalMemory(nn.Module):
    """The paper's equation with its two memories, as 1 x 1 convolutions ``keys`` and ``values``."""

    def __init__(self, channels: int, memories: int) -> None:
        super().__init__()
        self.keys = nn.Conv2d(channels, memories, 1, bias=False)
        self.values = nn.Conv2d(memories, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return external_attention(x, self.keys.weight, self.values.weight)


class ExternalAttention(Additive):
    """External attention (Guo et al., arXiv 2105.02358), the block of the authors' code.

    ``y = x + BN(W_2 M_v A)`` with ``A`` the weights of S memories at every position: a softmax over positions of
    ``M_k (W_1 x + b_1)``, then divided by its sum over memories. The paper's M_k is ``memory.keys``, its M_v
    ``memory.values``, its S our ``memories``; :class:`ExternalMemory` is its equation alone.

    Args:
        channels: C.
        memories: S, 64.
        relu: a ReLU behind the addition, as in the authors' code. It is not part of ``term``.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``memories`` below 1; a ``relu`` that is not a bool; a map with another number of
            channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, memories: int = 64, relu: bool = False) -> None:
        super().__init__()
        check_int("channels", channels)
        check_int("memories", memories)
        check_bool("relu", relu)
        self.channels = channels
        self.relu = relu
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.memory = ExternalMemory(channels, memories)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = BatchNorm2d(channels, momentum=3e-4)
        for conv in (self.conv1, self.memory.values, self.conv2):
            nn.init.normal_(conv.weight, std=(2 / conv.out_channels) ** 0.5)
        self.memory.keys.weight.data.copy_(self.memory.values.weight.data.transpose(0, 1))

    def term(self, x: Tensor) -> Tensor:
        """What is added to x, (B, C, H, W)."""
        check_map(x, self.channels, "external")
        return self.norm(self.conv2(self.memory(self.conv1(x))))

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return F.relu(out) if self.relu else out
