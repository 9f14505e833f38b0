"""Bottleneck-transformer attention: every pixel attends to every other, in the place of a 3 x 3 convolution."""

# B batch, C channels, H W the map, N heads, d depth of a key per head, dv of a value

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saccade._checks import check_bool, check_choice, check_divides, check_int, check_map, largest_divisor
from saccade.attention._base import ConvLike
from saccade.attention._card import Paper
from saccade.attention._sampling import Sampling, pair, strided_average
from saccade.attention._tables import RelativeTables, relative_tables
from saccade.ops import relative_attention_2d, resize_relative_table
from saccade.ops.relative_attention import BACKENDS
from saccade.ops.relative_attention.folded import attend_evenly

PAPER = Paper(
    title="Bottleneck Transformers for Visual Recognition",
    authors="Aravind Srinivas, Tsung-Yi Lin, Niki Parmar, Jonathon Shlens, Pieter Abbeel, Ashish Vaswani",
    year=2021,
    venue="CVPR",
    arxiv="2101.11605",
    kind="conv",
    attends="positions",
    equations=(
        "q, k, v = W_Q x, W_K x, W_V x at every pixel, split into N heads",
        "l[i, j] = q_i . (k_j + r^H[j_y - i_y] + r^W[j_x - i_x]) / sqrt(d)",
        "y_n = softmax(l) v_n for every head n",
        "y = concat(y_1 .. y_N), then the average over 2 x 2 pixels where the stride is 2",
    ),
    deviations=(
        "heads: the largest divisor of the output channels not above the paper's 4, unless given.",
        (
            "scale_positions=False is timm's default, q . k / sqrt(d) + q . r; the authors' listing scales both, as "
            "ours does."
        ),
        (
            'positions="absolute" (from memory an ablation of the paper) is that of the port of the authors\' listing: '
            "q . (k + e^H + e^W) / sqrt(d) with an embedding for each row and each column."
        ),
        (
            "A stride s averages s x s pixels, at the border those that exist; the paper and its ports have s = 2 on "
            "even maps."
        ),
        (
            "On a map of another size the tables are interpolated linearly: the relative ones over offsets, the "
            "absolute ones from the first pixel to the last."
        ),
        "Fewer heads for keys and values (kv_heads) are not the paper's, nor is a key_depth of its own, as timm has.",
        "Of a convolution's kernel size, padding and dilation only the centres of its filters count: the pixels seen.",
        "The 1 x 1 convolution starts as PyTorch's do.",
    ),
    limits=(
        "Time grows with the square of H * W: the paper has it in the last stage alone.",
        "There is no output projection: the block's next 1 x 1 convolution mixes the heads, after a BatchNorm.",
    ),
)


def absolute_tables(feature_size: tuple[int, int], depth: int) -> tuple[nn.Parameter, nn.Parameter]:
    """An embedding for every row and for every column, (H, d) and (W, d), from N(0, 1/d)."""
    height, width = (nn.Parameter(torch.randn(size, depth) * depth**-0.5) for size in feature_size)
    return height, width


def resize_positions(table: Tensor, size: int) -> Tensor:
    """Read a table of L absolute positions on a map of another length: (L, d) -> (size, d).

    Linear interpolation in which the first and the last pixel keep their rows; equal size gives exactly the table, one
    pixel reads the first row. Without a branch on the size.
    """
    last = len(table) - 1
    pixels = torch.arange(size, device=table.device, dtype=torch.float32)
    # Multiplied before the division, so that the last pixel lands on its row without rounding.
    place = pixels * last / pixels[-1:].clamp(min=1)
    low = place.floor()
    high = (low + 1).clamp(max=last)
    return torch.lerp(table[low.long()], table[high.long()], (place - low).to(table.dtype)[:, None])


class BoTAttention2d(ConvLike, RelativeTables):
    """Bottleneck-transformer attention (Srinivas et al., CVPR 2021, arXiv 2101.11605, figure 4).

    ``y_n = softmax(q (k + r_h + r_w)^T / sqrt(d)) v`` for each of N heads, over all pixels of the map. The paper's
    R_h, R_w are ``rel_h``, ``rel_w``, shared by the heads. Follow it by a BatchNorm and a ReLU, as the paper does.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation: as ``torch.nn.Conv2d``; ``padding=None``
            keeps the size of odd kernels at stride 1. A stride averages the result over as many pixels.
        heads: N; by default the largest divisor of ``out_channels`` not above 4.
        kv_heads: fewer heads for keys and values (grouped queries); a divisor of ``heads``. Query head n reads key and
            value head ``n // (heads // kv_heads)``.
        key_depth: d, by default the depth of a value, ``out_channels / heads``.
        positions: ``"relative"``, ``"absolute"`` or ``"none"``.
        scale_positions: whether the position logits are divided by sqrt(d) as the content logits are.
        feature_size: the map (H or (H, W)) on which attention works, before the stride: the size of the tables of
            positions. Another size at run time reads them by interpolation.
        backend: of :func:`saccade.ops.relative_attention_2d`.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H', W') with the convolution's H', W'.

    Raises:
        UsageError: sizes out of range, heads that do not divide, an unknown choice; a map with another number of
            channels.
    """

    paper = PAPER

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
        *,
        heads: int | None = None,
        kv_heads: int | None = None,
        key_depth: int | None = None,
        positions: str = "relative",
        scale_positions: bool = True,
        feature_size: int | tuple[int, int] = 14,
        dilation: int | tuple[int, int] = 1,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_int("in_channels", in_channels)
        check_int("out_channels", out_channels)
        heads = largest_divisor(out_channels, 4) if heads is None else heads
        check_int("heads", heads)
        check_divides("heads", heads, "out_channels", out_channels)
        kv_heads = heads if kv_heads is None else kv_heads
        check_int("kv_heads", kv_heads)
        check_divides("kv_heads", kv_heads, "heads", heads)
        key_depth = out_channels // heads if key_depth is None else key_depth
        check_int("key_depth", key_depth)
        check_choice("positions", positions, ("relative", "absolute", "none"))
        check_bool("scale_positions", scale_positions)
        check_choice("backend", backend, BACKENDS)
        self.in_channels, self.heads, self.kv_heads = in_channels, heads, kv_heads
        self.key_depth, self.value_depth = key_depth, out_channels // heads
        self.positions, self.scale_positions, self.backend = positions, scale_positions, backend
        self.stride = pair("stride", stride)
        self.sampling = Sampling.of_convolution(kernel_size, 1, padding, dilation)
        rows = heads * key_depth + kv_heads * (key_depth + self.value_depth)
        self.qkv = nn.Conv2d(in_channels, rows, 1, bias=False)
        sizes = pair("feature_size", feature_size)
        self.rel_h, self.rel_w = relative_tables(sizes, key_depth) if positions == "relative" else (None, None)
        self.pos_h, self.pos_w = absolute_tables(sizes, key_depth) if positions == "absolute" else (None, None)

    @classmethod
    def sized(cls, in_size: tuple[int, int], out_size: tuple[int, int], options: dict[str, Any]) -> dict[str, Any]:
        """The true size for the tables, unless the caller gave one: attention is before the stride."""
        return {} if "feature_size" in options else {"feature_size": in_size}

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.in_channels, "bot")
        out = self._attend(*self._split(self.qkv(self.sampling(x))))
        return strided_average(out.permute(0, 1, 4, 2, 3).flatten(1, 2), self.stride)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, rows, H, W) -> queries, keys, values, each (B, heads, H, W, depth)."""
        widths = (self.heads * self.key_depth, self.kv_heads * self.key_depth, self.kv_heads * self.value_depth)
        q, k, v = (
            part.unflatten(1, (heads, -1)).permute(0, 1, 3, 4, 2)
            for part, heads in zip(qkv.split(widths, dim=1), (self.heads, self.kv_heads, self.kv_heads), strict=True)
        )
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, heads, H, W, dv)."""
        height, width = q.shape[2:4]
        # Both forms divide all logits by sqrt(d); tables that are larger by sqrt(d) undo it for theirs.
        factor = 1.0 if self.scale_positions else self.key_depth**0.5
        if self.rel_h is not None and self.rel_w is not None:
            rel_h, rel_w = resize_relative_table(self.rel_h, height), resize_relative_table(self.rel_w, width)
            return relative_attention_2d(q, k, v, rel_h * factor, rel_w * factor, backend=self.backend)
        if self.pos_h is not None and self.pos_w is not None:
            rows, columns = resize_positions(self.pos_h, height), resize_positions(self.pos_w, width)
            k = k + ((rows[:, None] + columns) * factor).to(k.dtype)
        q, k, v = (part.flatten(2, 3) for part in (q, k, v))
        out = attend_evenly(q, k, v)
        return out.unflatten(2, (height, width))
