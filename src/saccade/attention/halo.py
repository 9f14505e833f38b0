"""Halo attention: every block of pixels attends to itself and a halo around it."""

# B batch, C channels, H W the map, N heads, Z = B N maps, d depth of a key per head, dv of a value, b block, h halo,
# w = b + 2h window; I J blocks down and across, b_y b_x the places in a block down and across, w_y w_x in a window

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_divides, check_int, check_map, largest_divisor
from saccade.attention._base import ConvLike
from saccade.attention._card import Paper
from saccade.attention._sampling import Sampling, pair
from saccade.errors import UsageError

PAPER = Paper(
    title="Scaling Local Self-Attention for Parameter Efficient Visual Backbones",
    authors="Ashish Vaswani, Prajit Ramachandran, Aravind Srinivas, Niki Parmar, Blake Hechtman, Jonathon Shlens",
    year=2021,
    venue="CVPR",
    arxiv="2103.12731",
    kind="conv",
    attends="positions",
    equations=(
        "q, k, v = W_Q x, W_K x, W_V x at every pixel, split into N heads",
        "the queries of a block of b x b pixels see the (b + 2h) x (b + 2h) pixels around it",
        "l[i, j] = q_i . (k_j + r^H[j_y - i_y] + r^W[j_x - i_x]) / sqrt(d)",
        "y_i = sum over j of softmax(l[i])_j v_j",
    ),
    deviations=(
        (
            "There is no authors' code; block_size=8, halo_size=3 and heads of depth 16 (as nearly as a divisor of the "
            "output channels allows) are from memory, the first two timm's too."
        ),
        (
            "A map is filled up to whole blocks, and what lies outside the map gets no weight. mask=False is timm's "
            "form, in which zero keys and values outside the map take part in the softmax, with their position logits."
        ),
        (
            "scale_positions=False is timm's default, q . k / sqrt(d) + q . r; its option and the port by lucidrains "
            "divide both by sqrt(d), as ours does."
        ),
        (
            "Tables have 2 (b + 2h) - 1 rows of which 2h are never read, as in both implementations, so that theirs "
            "fit; the row of an offset (key minus query) is offset + b + 3h - 1."
        ),
        (
            "A stride takes the queries of every stride-th pixel (the paper's attention downsampling, from memory). "
            "Offsets stay those between pixels; timm numbers the remaining queries anew."
        ),
        (
            "proj=True adds the 1 x 1 convolution with bias that lucidrains' port has, where heads may have any depth; "
            "timm has a key_depth of its own, too."
        ),
        "Of a convolution's kernel size, padding and dilation only the centres of its filters count: the pixels seen.",
        "Convolutions start as PyTorch's do, tables from N(0, 1/d) as in both implementations.",
    ),
    limits=(
        "The attention weights of a head take H * W * (block_size + 2 halo_size)^2 numbers.",
        "torch.export for all sizes needs a batch that is dynamic (or more than 1), or more than one head.",
    ),
)


def cut(x: Tensor, block: int, window: int) -> Tensor:
    """Rows into windows, a new one every ``block`` rows: (Z, L, R, d) -> (Z n, window, R, d), one sample after another.

    L must be n blocks and what the last window has beyond its block, rounded up to whole blocks. Windows are put
    together from whole blocks; an axis for the n of them would tie an exported program to n = 1, or to n > 1.
    """
    starts = range(0, window, block)
    pieces = [x[:, start : x.shape[1] - (starts[-1] - start)] for start in starts]
    pieces = [piece.flatten(0, 1).unflatten(0, (-1, block)) for piece in pieces]
    return torch.cat([piece[:, : window - start] for piece, start in zip(pieces, starts, strict=True)], dim=1)


def windows(x: Tensor, block: tuple[int, int], halo: int) -> Tensor:
    """Cut a map (Z, H, W, d) into blocks with a halo: (Z I J, w_y, w_x, d). Zeros where that leaves the map."""
    for size in block:
        # Both axes in turn: the one that is first is cut, and changes places with the other.
        window = size + 2 * halo
        length = blocks(x.shape[1], size) * size + (window - 1) // size * size
        x = F.pad(x, (0, 0, 0, 0, halo, length - halo - x.shape[1]))
        x = cut(x, size, window).transpose(1, 2)
    return x


def joined(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The map whose blocks these are, (Z I J, b_y, b_x, d) -> (Z, H, W, d)."""
    for length in reversed(size):
        x = x.transpose(1, 2)
        whole = blocks(length, x.shape[1]) * x.shape[1]
        # A slice would do, but torch.export cannot prove that it stays within whole blocks.
        pixels = torch.arange(length, device=x.device)
        x = x.flatten(0, 1).unflatten(0, (-1, whole)).index_select(1, pixels)
    return x


def blocks(size: int, block: int) -> int:
    """How many blocks cover a length."""
    return (size + block - 1) // block


def halo_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, position_scale: float, seen: Tensor | None
) -> Tensor:
    """Every query of a block attends to the block's window.

    q (Z, b_y, b_x, d), k (Z, w_y, w_x, d), v (Z, w_y, w_x, dv); rel_h (b_y, w_y, d) and rel_w (b_x, w_x, d) embed the
    offset of every key from every query; ``seen`` (Z, w_y, w_x) says which keys get weight, by default all. Content
    logits are divided by sqrt(d), position logits multiplied by ``position_scale``. Returns (Z, b_y, b_x, dv).
    """
    content = (q.flatten(1, 2) * q.shape[-1] ** -0.5) @ k.flatten(1, 2).transpose(1, 2)
    vertical = torch.einsum("zyxd,ykd->zyxk", q, rel_h * position_scale).flatten(1, 2)
    horizontal = torch.einsum("zyxd,xkd->zyxk", q, rel_w * position_scale).flatten(1, 2)
    logits = content + (vertical[..., :, None] + horizontal[..., None, :]).flatten(2)
    if seen is not None:
        # Every window has a pixel of the map, so that no row is masked as a whole.
        logits = logits.masked_fill(~seen.flatten(1)[:, None], float("-inf"))
    return (logits.softmax(dim=-1) @ v.flatten(1, 2)).unflatten(1, q.shape[1:3])


class HaloAttention2d(ConvLike):
    """Halo attention (Vaswani et al., CVPR 2021, arXiv 2103.12731).

    The map is cut into blocks of b x b pixels. Each block's queries attend to the block and the h pixels around it:
    ``y_i = softmax_j(q_i (k_j + r_h + r_w) / sqrt(d)) v_j``. The paper's b, h are ``block_size``, ``halo_size``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation: as ``torch.nn.Conv2d``; ``padding=None``
            keeps the size of odd kernels at stride 1. A stride must divide ``block_size``: every stride-th pixel asks.
        heads: N; by default the largest divisor of ``out_channels`` not above ``out_channels / 16``, and at least 1.
        key_depth, value_depth: d and dv, by default ``out_channels / heads``; another dv needs ``proj``.
        block_size: b, 8.
        halo_size: h, 3; 0 attends within blocks alone.
        mask: whether what lies outside the map gets no weight. Without it, zero keys and values are attended to there.
        scale_positions: whether the position logits are divided by sqrt(d) as the content logits are.
        proj: a 1 x 1 convolution with bias from the heads to the output.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H', W') with the convolution's H', W'.

    Raises:
        UsageError: sizes out of range, heads or a stride that do not divide, a depth of values that needs ``proj``; a
            map with another number of channels.
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
        key_depth: int | None = None,
        value_depth: int | None = None,
        block_size: int = 8,
        halo_size: int = 3,
        mask: bool = True,
        scale_positions: bool = True,
        proj: bool = False,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__()
        for name, value in {"in_channels": in_channels, "out_channels": out_channels, "block_size": block_size}.items():
            check_int(name, value)
        check_int("halo_size", halo_size, at_least=0)
        for name, value in {"mask": mask, "scale_positions": scale_positions, "proj": proj}.items():
            check_bool(name, value)
        self.in_channels, self.block, self.halo, self.mask = in_channels, block_size, halo_size, mask
        self.heads, self.key_depth, self.value_depth = _depths(out_channels, heads, key_depth, value_depth, proj)
        self.stride = pair("stride", stride)
        for step in self.stride:
            check_divides("stride", step, "block_size", block_size)
        self.sampling = Sampling.of_convolution(kernel_size, 1, padding, dilation)
        self.query_sampling = Sampling.of_convolution(kernel_size, stride, padding, dilation)
        self.position_scale = self.key_depth**-0.5 if scale_positions else 1.0
        self.q = nn.Conv2d(in_channels, self.heads * self.key_depth, 1, bias=False)
        self.kv_widths = (self.heads * self.key_depth, self.heads * self.value_depth)
        self.kv = nn.Conv2d(in_channels, sum(self.kv_widths), 1, bias=False)
        self.proj = nn.Conv2d(self.heads * self.value_depth, out_channels, 1) if proj else None
        rows = 2 * (block_size + 2 * halo_size) - 1
        self.rel_h, self.rel_w = (
            nn.Parameter(torch.randn(rows, self.key_depth) * self.key_depth**-0.5) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.in_channels, "halo")
        seen, asking = self.sampling(x), self.query_sampling(x)
        q = self._split(self.q(asking))
        k, v = (self._split(part) for part in self.kv(seen).split(self.kv_widths, dim=1))
        every = (self.block, self.block)
        fewer = (self.block // self.stride[0], self.block // self.stride[1])
        # Of all heads and samples, so that it has the batch axis of the rest.
        inside = windows(torch.ones_like(k[..., :1]), every, self.halo)[..., 0] > 0 if self.mask else None
        out = halo_attention(
            windows(q, fewer, 0),
            windows(k, every, self.halo),
            windows(v, every, self.halo),
            self._offsets(self.rel_h, self.stride[0]),
            self._offsets(self.rel_w, self.stride[1]),
            position_scale=self.position_scale,
            seen=inside,
        )
        out = joined(out, (q.shape[1], q.shape[2])).permute(0, 3, 1, 2).unflatten(0, (-1, self.heads)).flatten(1, 2)
        return out if self.proj is None else self.proj(out)

    def _split(self, x: Tensor) -> Tensor:
        """(B, N d, H, W) -> (B N, H, W, d)."""
        return x.unflatten(1, (self.heads, -1)).flatten(0, 1).permute(0, 2, 3, 1)

    def _offsets(self, table: Tensor, step: int) -> Tensor:
        """The embedding of the offset of every key in a window from every query in its block, (queries, w, d)."""
        window = self.block + 2 * self.halo
        queries, keys = (torch.arange(0, n, s, device=table.device) for n, s in ((self.block, step), (window, 1)))
        return table[keys - queries[:, None] + window - 1]


def _depths(
    out_channels: int, heads: int | None, key_depth: int | None, value_depth: int | None, proj: bool
) -> tuple[int, int, int]:
    """Heads, d and dv: the caller's, or those that share the output channels."""
    heads = largest_divisor(out_channels, max(1, out_channels // 16)) if heads is None else heads
    check_int("heads", heads)
    if value_depth is None:
        check_divides("heads", heads, "out_channels", out_channels)
        value_depth = out_channels // heads
    check_int("value_depth", value_depth)
    key_depth = value_depth if key_depth is None else key_depth
    check_int("key_depth", key_depth)
    if not proj and heads * value_depth != out_channels:
        raise UsageError(
            f"`value_depth` (={value_depth}) must be out_channels / heads (={out_channels} / {heads}), or give "
            "proj=True: a convolution from the heads to the output"
        )
    return heads, key_depth, value_depth
