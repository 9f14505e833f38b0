"""Bottleneck attention: a channel branch and a dilated spatial branch, joined into one weight for every value."""

# B batch, C channels, H W the map, R hidden width

from __future__ import annotations

from torch import Tensor, nn

from saccade._checks import check_bool, check_choice, check_int, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d

PAPER = Paper(
    title="BAM: Bottleneck Attention Module",
    authors="Jongchan Park, Sanghyun Woo, Joon-Young Lee, In So Kweon",
    year=2018,
    venue="BMVC",
    arxiv="1807.06514",
    kind="gate",
    attends="channel+spatial",
    equations=(
        "M_c(x) = BN(W2 relu(BN(W1 z + b1)) + b2), z = mean of x over H, W",
        "M_s(x) = BN(conv1x1(h(h(relu(BN(conv1x1(x))))))), h(u) = relu(BN(conv3x3 of dilation 4 (u)))",
        "M(x) = sigmoid(M_c(x) + M_s(x))",
        "y = x + M(x) * x",
    ),
    deviations=(
        'The paper adds the two branches; the authors\' code multiplies them: combine="product".',
        (
            "The BatchNorm at the end of either branch is the paper's (from memory); the authors' code has none: "
            "norm_last=False. Those inside the branches, and the ReLUs, are the authors' code's."
        ),
        (
            "The channel branch averages the whole map. The authors' code averages only the first H columns, and stops "
            "with an error where W < H."
        ),
        "R = max(1, C // reduction); the authors' code has no minimum.",
        (
            "The channel branch has one value per channel and sample: at batch 1 in train mode its BatchNorms use "
            "running statistics, as those of the spatial branch do on a 1 x 1 map."
        ),
    ),
    limits=("Made for the ends of stages: the paper puts one module after each stage but the last.",),
)


class BottleneckAttentionModule(Gate):
    """Bottleneck attention module (Park et al., BMVC 2018, arXiv 1807.06514).

    ``y = (1 + sigmoid(M_c(x) + M_s(x))) * x``: ``M_c`` is a perceptron C -> R -> C on the mean of the map, ``M_s`` a
    1 x 1 convolution C -> R, two 3 x 3 of dilation 4, and a 1 x 1 to one channel. The paper's F, F' are our x, y; its r
    our ``reduction``, its d our ``dilation``.

    Args:
        channels: C.
        reduction: the paper's r, 16; the hidden width is ``max(1, C // reduction)``.
        width: the hidden width itself, from 1 to C, in the place of ``C // reduction``.
        dilation: of the two 3 x 3 convolutions, the paper's d, 4.
        combine: ``"sum"`` adds the branches before the sigmoid, as the paper; ``"product"`` multiplies them, as the
            authors' code.
        norm_last: whether a BatchNorm ends either branch, as in the paper; the authors' code has none.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels``, ``reduction`` or ``dilation`` below 1; a ``width`` not from 1 to C; an unknown
            ``combine``; a ``norm_last`` that is no bool; a map with another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        width: int | None = None,
        dilation: int = 4,
        combine: str = "sum",
        norm_last: bool = True,
    ) -> None:
        super().__init__()
        check_int("dilation", dilation)
        check_choice("combine", combine, ("sum", "product"))
        check_bool("norm_last", norm_last)
        self.channels = channels
        self.combine = combine
        width = hidden_width(channels, reduction, width)
        self.channel = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels, 1),
        )
        self.spatial = nn.Sequential(nn.Conv2d(channels, width, 1), BatchNorm2d(width), nn.ReLU(inplace=True))
        for _ in range(2):
            conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
            self.spatial.extend((conv, BatchNorm2d(width), nn.ReLU(inplace=True)))
        self.spatial.append(nn.Conv2d(width, 1, 1))
        if norm_last:
            self.channel.append(BatchNorm2d(channels))
            self.spatial.append(BatchNorm2d(1))

    def joined(self, x: Tensor, squeezed: Tensor) -> Tensor:
        """1 + M, (B, C, H, W), from x and its means (B, C, 1, 1)."""
        channel, spatial = self.channel(squeezed), self.spatial(x)
        return 1 + (channel + spatial if self.combine == "sum" else channel * spatial).sigmoid()

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied, 1 + M, (B, C, H, W)."""
        check_map(x, self.channels, "bam")
        return self.joined(x, x.mean(dim=(2, 3), keepdim=True))
