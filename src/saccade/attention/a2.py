"""Double attention: gather features of the whole map into a few vectors, then give every position its mix of them."""

# B batch, C channels, H W the map, m features, n maps

from __future__ import annotations

from torch import Tensor, nn

from saccade._checks import check_int, check_map
from saccade.attention._base import Additive
from saccade.attention._card import Paper

PAPER = Paper(
    title="A^2-Nets: Double Attention Networks",
    authors="Yunpeng Chen, Yannis Kalantidis, Jianshu Li, Shuicheng Yan, Jiashi Feng",
    year=2018,
    venue="NeurIPS",
    arxiv="1810.11579",
    kind="context",
    attends="positions",
    equations=(
        "A = W_A x + b_A (m channels), B = softmax over positions of W_B x + b_B (n maps)",
        "V = softmax over the n maps of W_V x + b_V at every position",
        "G = A B^T, the gathered features (m x n)",
        "Z = G V, distributed to every position",
        "y = x + W_Z Z + b_Z",
    ),
    deviations=(
        "features = maps = max(1, C // 4) is our choice.",
        (
            "The addition to x is from memory of the paper; the published implementations that we know return the "
            "context alone, which is our term."
        ),
        "Layers start as PyTorch's do.",
        "A popular implementation normalises B and V over the samples of the batch by mistake; that is not offered.",
    ),
)


def double_attention(features: Tensor, gather: Tensor, distribute: Tensor) -> Tensor:
    """Gather, then distribute: features (B, m, H, W), logits of both attentions (B, n, H, W) -> (B, m, H, W)."""
    # In this order no product has a side of HW x HW: the cost is linear in the number of positions.
    gathered = features.flatten(2) @ gather.flatten(2).softmax(dim=2).to(features.dtype).transpose(1, 2)
    spread = distribute.flatten(2).softmax(dim=1).to(features.dtype)
    return (gathered @ spread).unflatten(2, features.shape[-2:])


class DoubleAttention(Additive):
    """Double attention block (Chen et al., NeurIPS 2018, arXiv 1810.11579).

    ``y = x + W_Z (A B^T V) + b_Z`` with features A, gathering maps B (softmax over positions) and distributing maps V
    (softmax over maps). The paper's c_m or m is our ``features``, its c_n or n our ``maps``.

    Args:
        channels: C.
        features: m, the channels of what is gathered; None: ``max(1, C // 4)``.
        maps: n, how many vectors are gathered; None: ``max(1, C // 4)``.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels``, ``features`` or ``maps`` below 1; a map with another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, features: int | None = None, maps: int | None = None) -> None:
        super().__init__()
        check_int("channels", channels)
        features, maps = (max(1, channels // 4) if width is None else width for width in (features, maps))
        check_int("features", features)
        check_int("maps", maps)
        self.channels = channels
        self.widths = (features, maps, maps)
        self.project = nn.Conv2d(channels, sum(self.widths), 1)
        self.output = nn.Conv2d(features, channels, 1)

    def term(self, x: Tensor) -> Tensor:
        """What is added to x, (B, C, H, W)."""
        check_map(x, self.channels, "a2")
        return self.output(double_attention(*self.project(x).split(self.widths, dim=1)))
