"""Global attention mechanism: a weight for every value of the map, by channels and then by space, without pooling."""

# B batch, C channels, H W the map, R hidden width

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_choice, check_divides, check_int, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d
from saccade.attention._shuffle import channel_shuffle
from saccade.errors import UsageError

PaddingMode = Literal["zeros", "replicate"]

PAPER = Paper(
    title="Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions",
    authors="Yichao Liu, Zongru Shao, Nico Hoffmann",
    year=2021,
    venue="arXiv",
    arxiv="2112.05561",
    kind="gate",
    attends="channel+spatial",
    equations=(
        "M_c(x) = W2 relu(W1 x + b1) + b2 at every position",
        "x' = M_c(x) * x",
        "M_s(x') = sigmoid(BN(conv7x7(relu(BN(conv7x7(x'))))))",
        "y = M_s(x') * x'",
    ),
    deviations=(
        (
            "The default is the published code of the method's article, which has no sigmoid on the channel branch; "
            'channel_gate="sigmoid" gives the form of the paper\'s figure.'
        ),
        "R = max(1, C // reduction); the code has no minimum. Its reduction is 4; the paper refers to BAM's ratio.",
        (
            "groups: the paper only names group convolution with channel shuffle. As in public code, both convolutions "
            "are grouped and M_s is shuffled once, after its sigmoid, not between the convolutions. That code has as "
            "many groups as its reduction and always shuffles in 4; here both are free."
        ),
        (
            "pool: the paper has an ablation with max pooling and gives, in what we could read, no details. Ours pools "
            "3 x 3 with stride 2 before the spatial branch, and repeats the nearest value of M_s at every position."
        ),
        'padding_mode="replicate" is that of a public port; the article\'s code has zeros.',
        "Where a channel has a single value in train mode (batch 1 on a 1 x 1 map), BatchNorm uses running statistics.",
    ),
    limits=(
        (
            "Parameters grow as 2 C^2 / reduction + 98 C^2 / (reduction groups): 1.6 M at C = 256, 105 M at C = 2048 "
            "(reduction 4, no groups)."
        ),
        "With pool, torch.export makes one program for maps of at least 3 positions each way.",
        "Where it stands in a network is not given by a source that we could read; the caller chooses.",
    ),
)


def gam_channel_map(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """A two-layer perceptron over the channels of every position: w1 (R, C), w2 (C, R), x and result (B, C, H, W)."""
    positions = x.permute(0, 2, 3, 1)
    return F.linear(F.relu(F.linear(positions, w1, b1)), w2, b2).permute(0, 3, 1, 2)


def spatial_branch(channels: int, width: int, groups: int, padding_mode: PaddingMode) -> nn.Sequential:
    """The convolutions of M_s, with its sigmoid."""

    def convolution(inputs: int, outputs: int) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 7, padding=3, groups=groups, padding_mode=padding_mode)

    return nn.Sequential(
        convolution(channels, width),
        BatchNorm2d(width),
        nn.ReLU(inplace=True),
        convolution(width, channels),
        BatchNorm2d(channels),
        nn.Sigmoid(),
    )


class GlobalAttention(Gate):
    """Global attention mechanism (Liu, Shao, Hoffmann, arXiv 2112.05561).

    ``y = M_s(x') * x'`` with ``x' = M_c(x) * x``: the channel map ``M_c`` is a perceptron C -> R -> C at every
    position, the spatial map ``M_s`` two 7 x 7 convolutions C -> R -> C with BatchNorm, then a sigmoid. Nothing is
    pooled, by default. The paper's F1, F2, F3 are our x, x', y; its r our ``reduction``.

    Args:
        channels: C.
        reduction: r, 4 in the published code; the hidden width is ``max(1, C // reduction)``.
        width: the hidden width itself, from 1 to C, in the place of ``C // reduction``.
        channel_gate: ``"none"`` multiplies by the perceptron's output itself, as the published code does;
            ``"sigmoid"`` puts it through a sigmoid first, as the paper's figure shows.
        groups: of both 7 x 7 convolutions, 1; more save parameters.
        shuffle: the groups in which the channels of M_s are shuffled after its sigmoid; ``None`` takes ``groups``, 1
            leaves them in their order.
        channel, spatial: whether there is M_c, and M_s: the paper's ablations.
        pool: whether the spatial branch works on a map of half the size, the paper's ablation with max pooling.
        padding_mode: what the 7 x 7 convolutions see around the map, ``"zeros"`` or the nearest value, ``"replicate"``.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels``, ``reduction``, ``groups`` or ``shuffle`` below 1; a ``width`` not from 1 to C;
            ``groups`` that do not divide C and the hidden width, ``shuffle`` that does not divide C; an unknown
            ``channel_gate`` or ``padding_mode``; a switch that is no bool, both branches switched off; a map with
            another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 4,
        width: int | None = None,
        channel_gate: str = "none",
        groups: int = 1,
        shuffle: int | None = None,
        channel: bool = True,
        spatial: bool = True,
        pool: bool = False,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        check_choice("channel_gate", channel_gate, ("none", "sigmoid"))
        check_choice("padding_mode", padding_mode, get_args(PaddingMode))
        for name, switch in {"channel": channel, "spatial": spatial, "pool": pool}.items():
            check_bool(name, switch)
        if not (channel or spatial):
            raise UsageError("`channel` and `spatial` are both False: gam needs at least one of its branches")
        width = hidden_width(channels, reduction, width)
        shuffle = groups if shuffle is None else shuffle
        for name, count in {"groups": groups, "shuffle": shuffle}.items():
            check_int(name, count)
            check_divides(name, count, "channels", channels)
        check_divides("groups", groups, "hidden width", width)
        self.channels, self.channel_gate, self.shuffle, self.pool = channels, channel_gate, shuffle, pool
        self.fc1 = nn.Linear(channels, width) if channel else None
        self.fc2 = nn.Linear(width, channels) if channel else None
        self.spatial = spatial_branch(channels, width, groups, padding_mode) if spatial else None

    def channel_map(self, x: Tensor) -> Tensor:
        """M_c, (B, C, H, W); ones where there is no channel branch."""
        check_map(x, self.channels, "gam")
        if self.fc1 is None or self.fc2 is None:
            return torch.ones_like(x)
        weights = gam_channel_map(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return weights.sigmoid() if self.channel_gate == "sigmoid" else weights

    def spatial_map(self, x: Tensor) -> Tensor:
        """M_s of x', (B, C, H, W); ones where there is no spatial branch."""
        check_map(x, self.channels, "gam")
        if self.spatial is None:
            return torch.ones_like(x)
        weights = self.spatial(F.max_pool2d(x, 3, stride=2, padding=1) if self.pool else x)
        if self.shuffle > 1:
            weights = channel_shuffle(weights, self.shuffle)
        return F.interpolate(weights, size=x.shape[-2:], mode="nearest") if self.pool else weights

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied in all, M_c(x) * M_s(x'), (B, C, H, W)."""
        if self.fc1 is None:
            return self.spatial_map(x)
        channel = self.channel_map(x)
        return channel if self.spatial is None else channel * self.spatial_map(x * channel)

    def forward(self, x: Tensor) -> Tensor:
        # The paper's order: one product fewer than x * gate(x), and the same but for rounding.
        if self.fc1 is not None:
            x = x * self.channel_map(x)
        return x if self.spatial is None else x * self.spatial_map(x)
