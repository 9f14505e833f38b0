"""Global attention mechanism: a weight for every value of the map, by channels and then by space, without pooling."""

# B batch, C channels, H W the map, R hidden width

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_choice, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d

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
        "The paper's variant with grouped 7 x 7 convolutions and a channel shuffle is not offered.",
        "Where a channel has a single value in train mode (batch 1 on a 1 x 1 map), BatchNorm uses running statistics.",
    ),
    limits=(
        "Parameters grow as 100 C^2 / reduction: 1.6 M at C = 256, 105 M at C = 2048 (reduction 4).",
        "Where it stands in a network is not given by a source that we could read; the caller chooses.",
    ),
)


def gam_channel_map(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """A two-layer perceptron over the channels of every position: w1 (R, C), w2 (C, R), x and result (B, C, H, W)."""
    positions = x.permute(0, 2, 3, 1)
    return F.linear(F.relu(F.linear(positions, w1, b1)), w2, b2).permute(0, 3, 1, 2)


class GlobalAttention(Gate):
    """Global attention mechanism (Liu, Shao, Hoffmann, arXiv 2112.05561).

    ``y = M_s(x') * x'`` with ``x' = M_c(x) * x``: the channel map ``M_c`` is a perceptron C -> R -> C at every
    position, the spatial map ``M_s`` two 7 x 7 convolutions C -> R -> C with BatchNorm, then a sigmoid. Nothing is
    pooled. The paper's F1, F2, F3 are our x, x', y; its r our ``reduction``.

    Args:
        channels: C.
        reduction: r, 4 in the published code; the hidden width is ``max(1, C // reduction)``.
        channel_gate: ``"none"`` multiplies by the perceptron's output itself, as the published code does;
            ``"sigmoid"`` puts it through a sigmoid first, as the paper's figure shows.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``reduction`` below 1; an unknown ``channel_gate``; a map with another number of
            channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, reduction: int = 4, channel_gate: str = "none") -> None:
        super().__init__()
        check_choice("channel_gate", channel_gate, ("none", "sigmoid"))
        self.channels = channels
        self.channel_gate = channel_gate
        width = hidden_width(channels, reduction)
        self.fc1 = nn.Linear(channels, width)
        self.fc2 = nn.Linear(width, channels)
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, width, 7, padding=3),
            BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels, 7, padding=3),
            BatchNorm2d(channels),
            nn.Sigmoid(),
        )

    def channel_map(self, x: Tensor) -> Tensor:
        """M_c, (B, C, H, W)."""
        check_map(x, self.channels, "gam")
        weights = gam_channel_map(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return weights.sigmoid() if self.channel_gate == "sigmoid" else weights

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied in all, M_c(x) * M_s(x'), (B, C, H, W)."""
        channel = self.channel_map(x)
        return channel * self.spatial(x * channel)

    def forward(self, x: Tensor) -> Tensor:
        # The paper's order: one product fewer than x * gate(x), and the same but for rounding.
        x = x * self.channel_map(x)
        return x * self.spatial(x)
