"""Coordinate attention: weigh each channel by row and by column, from the means along the other axis."""

# B batch, C channels, H W the map, R hidden width

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_int, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d

PAPER = Paper(
    title="Coordinate Attention for Efficient Mobile Network Design",
    authors="Qibin Hou, Daquan Zhou, Jiashi Feng",
    year=2021,
    venue="CVPR",
    arxiv="2103.02907",
    kind="gate",
    attends="channel+spatial",
    equations=(
        "z_h = mean of x over W, z_w = mean of x over H",
        "f = h_swish(BN(W1 [z_h; z_w] + b1)) at every row and column, h_swish(u) = u relu6(u + 3) / 6",
        "g_h = sigmoid(W_h f_h + b_h), g_w = sigmoid(W_w f_w + b_w)",
        "y[c, i, j] = x[c, i, j] * g_h[c, i] * g_w[c, j]",
    ),
    deviations=(
        "The paper writes a general non-linearity; h_swish is the authors' code's.",
        "R = max(min_width, C // reduction), at least 8 as in the authors' code; the paper has no least width.",
    ),
    limits=(
        "Batch 1 on a 1 x 1 map in train mode: the mean of the row is that of the column, BatchNorm takes both away.",
    ),
)


class CoordinateAttention(Gate):
    """Coordinate attention (Hou, Zhou, Feng, CVPR 2021, arXiv 2103.02907).

    ``y = x * g_h * g_w``: the means over rows and over columns go through one 1 x 1 convolution C -> R with BatchNorm
    and h_swish, then each through its own 1 x 1 convolution R -> C and a sigmoid. The paper's X, Y are our x, y; its r
    our ``reduction``.

    Args:
        channels: C.
        reduction: the paper's r, 32; the hidden width is ``max(min_width, C // reduction)``.
        min_width: the least hidden width, 8 in the authors' code.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels``, ``reduction`` or ``min_width`` below 1; a map with another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, reduction: int = 32, min_width: int = 8) -> None:
        super().__init__()
        check_int("min_width", min_width)
        self.channels = channels
        width = max(min_width, hidden_width(channels, reduction))
        self.reduce = nn.Conv2d(channels, width, 1)
        self.norm = BatchNorm2d(width)
        self.rows = nn.Conv2d(width, channels, 1)
        self.columns = nn.Conv2d(width, channels, 1)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """g_h (B, C, H, 1) and g_w (B, C, 1, W)."""
        check_map(x, self.channels, "coord")
        # Rows and columns in one sequence, so that they share the BatchNorm's statistics.
        means = torch.cat((x.mean(dim=3), x.mean(dim=2)), dim=2).unsqueeze(3)
        hidden = F.hardswish(self.norm(self.reduce(means)))
        rows, columns = hidden.split(x.shape[2:], dim=2)
        return self.rows(rows).sigmoid(), self.columns(columns.transpose(2, 3)).sigmoid()

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied, g_h * g_w, (B, C, H, W)."""
        rows, columns = self.gates(x)
        return rows * columns
