"""Attention-augmented convolution: part of the output channels sees the whole map, the rest its neighbourhood."""

# B batch, C channels, H W the map, N heads, d depth of a key per head

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_choice, check_divides, check_int, check_map, check_number
from saccade.attention._base import ConvLike, take_rows
from saccade.attention._card import Paper
from saccade.attention._sampling import Sampling, pair
from saccade.attention._tables import RelativeTables, relative_tables
from saccade.attention.coordconv import add_coordinates
from saccade.attention.sine2d import sinusoids_2d
from saccade.errors import UsageError
from saccade.ops import relative_attention_2d, resize_relative_table
from saccade.ops.relative_attention import BACKENDS
from saccade.ops.relative_attention.folded import attend_evenly

PAPER = Paper(
    title="Attention Augmented Convolutional Networks",
    authors="Irwan Bello, Barret Zoph, Ashish Vaswani, Jonathon Shlens, Quoc V. Le",
    year=2019,
    venue="ICCV",
    arxiv="1904.09925",
    kind="conv",
    attends="positions",
    equations=(
        "l[i, j] = q_i . (k_j + r^H[j_y - i_y] + r^W[j_x - i_x]) / sqrt(d)",
        "O_n = softmax(l) V_n for every head n",
        "MHA(x) = W_O concat(O_1 .. O_N)",
        "AAConv(x) = concat(conv(x), MHA(x)), the convolution with F_out - d_v filters",
    ),
    deviations=(
        (
            "The relative tables start from N(0, 1/d). The paper's listing passes that number as the mean, which we "
            "take for a slip."
        ),
        (
            "Small maps: heads are lowered to their largest divisor not above F_out / 4, and the least key depth to "
            "F_out / heads where F_out < 128. The paper's own networks are not affected."
        ),
        (
            "A stride is applied by attending from and to the pixels at the filters' centres, zeros where these lie "
            "outside the map; the paper gives no listing for strides."
        ),
        "On a map of another size the tables are interpolated linearly over offsets.",
        (
            "The minimum of 20 dimensions per head for keys, which the paper states for CIFAR-100, is the default "
            "everywhere: its ImageNet ResNets have their number of parameters only with it. d_v is at least 1 per head."
        ),
        (
            "downsample: pixels outside the map do not count in the averages; factors other than 2 and fewer heads for "
            "keys and values (kv_heads) are not the paper's."
        ),
        (
            "encoding: that sinusoids are added and coordinates appended to what attention alone sees is our reading "
            "of the paper's table of position encodings, which has them before attention."
        ),
        "Convolutions start as PyTorch's do; the listing leaves them to its own framework.",
    ),
    limits=(
        (
            "Time grows with the square of H * W: the paper augments from the deepest stage outwards. Memory does not, "
            "but in an exported program, and without positions on devices where PyTorch's attention is not fused."
        ),
        "In a network, dilation, groups and bias are those of the convolution whose place it takes.",
    ),
)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _with_sinusoids(x: Tensor) -> Tensor:
    return x + sinusoids_2d(x).to(x.dtype)


# What attention is told of positions beside its relative tables.
ENCODINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": _as_it_is,
    "sine2d": _with_sinusoids,
    "coordconv": add_coordinates,
}


def attention_depths(
    out_channels: int, heads: int, kappa: float, upsilon: float, min_key_dim: int
) -> tuple[int, int, int]:
    """(heads, d_k, d_v) of an augmented convolution with F_out output channels, by the paper's ratios.

    d_k is kappa F_out and d_v upsilon F_out, rounded down to multiples of the heads; every head's keys have at least
    ``min_key_dim`` dimensions, its values at least one. Small F_out lowers heads and the minimum, see the Card.
    """
    heads = max((h for h in range(1, heads + 1) if heads % h == 0 and 4 * h <= out_channels), default=1)
    if out_channels < 128:
        min_key_dim = min(min_key_dim, max(1, out_channels // heads))
    dk = max(_floor_to_multiple(kappa * out_channels, heads), heads * min_key_dim)
    dv = max(_floor_to_multiple(upsilon * out_channels, heads), heads)
    return heads, dk, dv


class SelfAttention2d(RelativeTables):
    """Multi-head self-attention over the pixels of a map, the attention half of :class:`AAConv2d`.

    One 1 x 1 convolution makes queries, keys and values (output rows q, then k, then v, head after head), the op
    attends, another 1 x 1 convolution mixes the heads. A map is read at the pixels ``offset + i * stride``.

    Shapes: (B, C, H, W) -> (B, dv, H', W').
    """

    def __init__(
        self,
        in_channels: int,
        *,
        dk: int,
        dv: int,
        heads: int,
        kv_heads: int,
        relative: bool,
        encoding: str,
        feature_size: tuple[int, int],
        sampling: Sampling,
        downsample: int,
        bias: bool,
        backend: str,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.key_depth, self.value_depth = dk // heads, dv // heads
        self.out_channels = dv
        self.sampling = sampling
        self.downsample = downsample
        self.encode = ENCODINGS[encoding]
        self.backend = backend
        in_channels += 2 if encoding == "coordconv" else 0
        self.qkv = nn.Conv2d(in_channels, dk + kv_heads * (self.key_depth + self.value_depth), 1, bias=bias)
        self.proj = nn.Conv2d(dv, dv, 1, bias=bias)
        self.rel_h, self.rel_w = relative_tables(feature_size, self.key_depth) if relative else (None, None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.sampling(x)
        size = x.shape[-2:]
        if self.downsample > 1:
            kernel = 2 * (self.downsample // 2) + 1
            x = F.avg_pool2d(x, kernel, self.downsample, padding=kernel // 2, count_include_pad=False)
        out = self.proj(self._attend(*self._split(self.qkv(self.encode(x)))))
        if self.downsample > 1:
            out = F.interpolate(out, size=size, mode="bilinear", align_corners=False)
        return out

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, rows, H, W) -> queries, keys, values, each (B, heads, H, W, depth)."""
        widths = (self.heads * self.key_depth, self.kv_heads * self.key_depth, self.kv_heads * self.value_depth)
        q, k, v = (
            part.unflatten(1, (heads, -1)).permute(0, 1, 3, 4, 2)
            for part, heads in zip(qkv.split(widths, dim=1), (self.heads, self.kv_heads, self.kv_heads), strict=True)
        )
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        height, width = q.shape[2:4]
        if self.rel_h is not None and self.rel_w is not None:
            rel_h, rel_w = resize_relative_table(self.rel_h, height), resize_relative_table(self.rel_w, width)
            out = relative_attention_2d(q, k, v, rel_h, rel_w, backend=self.backend)
        else:
            q, k, v = (part.flatten(2, 3) for part in (q, k, v))
            out = attend_evenly(q, k, v)
            out = out.unflatten(2, (height, width))
        return out.permute(0, 1, 4, 2, 3).flatten(1, 2)


class AAConv2d(ConvLike):
    """Attention-augmented convolution (Bello et al., ICCV 2019, arXiv 1904.09925, equations 1 to 6).

    ``AAConv(x) = concat(conv(x), MHA(x))`` over channels, the convolution with ``out_channels - dv`` filters and first.
    The paper's F_in, F_out are ``in_channels``, ``out_channels``; N_h ``heads``; d_k, d_v ``dk``, ``dv``; kappa and
    upsilon the same. Follow it by a BatchNorm, as the paper does.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as ``torch.nn.Conv2d``;
            ``padding=None`` keeps the size of odd kernels at stride 1. ``bias`` holds for the attention's 1 x 1
            convolutions too.
        heads: N_h, 8. Unless both ``dk`` and ``dv`` are given, lowered for few channels to the largest divisor not
            above ``out_channels / 4``.
        kappa, upsilon: d_k / F_out and d_v / F_out, 0.2 and 0.1 as in most of the paper's networks; the depths are
            rounded down to multiples of the heads, ``dv`` to no less than one per head.
        min_key_dim: the least depth of a head's keys, 20; below 128 output channels at most ``out_channels / heads``.
        dk, dv: total depths, instead of those from kappa and upsilon; multiples of ``heads``, ``dv <= out_channels``.
        kv_heads: fewer heads for keys and values (grouped queries); a divisor of ``heads``.
        relative: learned embeddings of vertical and horizontal offsets, shared by all heads.
        encoding: what attention, and the filters not, is told of positions beside that, on the map where it works:
            ``"none"``; ``"sine2d"``, sinusoids of the row and the column added to the channels
            (:class:`saccade.attention.sine2d.Sine2d`); ``"coordconv"``, two channels more, from -1 to 1. The rows of
            the paper's table of position encodings are: none, ``relative=False``; 2d sine, ``relative=False,
            encoding="sine2d"``; CoordConv, ``relative=False, encoding="coordconv"``; relative, the default.
        feature_size: the map (H or (H, W)) on which attention works, after stride and ``downsample``: it sets the size
            of the relative tables. Another size at run time reads them by interpolation.
        downsample: n > 1 attends on a map n times smaller, for large maps: average pooling of the input with stride n
            over 2 (n // 2) + 1 pixels each way (3 x 3 for the paper's n = 2), bilinear upsampling of the result.
        backend: of :func:`saccade.ops.relative_attention_2d`.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H', W') with the convolution's H', W'.

    Raises:
        UsageError: sizes out of range, depths that heads do not divide; a map with another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
        *,
        heads: int = 8,
        kappa: float = 0.2,
        upsilon: float = 0.1,
        min_key_dim: int = 20,
        dk: int | None = None,
        dv: int | None = None,
        kv_heads: int | None = None,
        relative: bool = True,
        encoding: str = "none",
        feature_size: int | tuple[int, int] = 14,
        downsample: int = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_int("in_channels", in_channels)
        check_int("out_channels", out_channels)
        check_int("groups", groups)
        check_int("downsample", downsample)
        check_bool("relative", relative)
        check_bool("bias", bias)
        check_choice("backend", backend, BACKENDS)
        _check_encoding(encoding)
        check_divides("groups", groups, "in_channels", in_channels)
        heads, dk, dv = _resolve_depths(out_channels, heads, kappa, upsilon, min_key_dim, dk, dv)
        check_divides("groups", groups, "out_channels - dv", out_channels - dv)
        self.in_channels, self.out_channels = in_channels, out_channels
        sampling = Sampling.of_convolution(kernel_size, stride, padding, dilation)
        geometry = (sampling.kernel, sampling.stride, sampling.padding, sampling.dilation, groups, bias)
        self.conv = nn.Conv2d(in_channels, out_channels - dv, *geometry) if dv < out_channels else None
        self.attention = SelfAttention2d(
            in_channels,
            dk=dk,
            dv=dv,
            heads=heads,
            kv_heads=_resolve_kv_heads(heads, kv_heads),
            relative=relative,
            encoding=encoding,
            feature_size=pair("feature_size", feature_size),
            sampling=sampling,
            downsample=downsample,
            bias=bias,
            backend=backend,
        )

    def take_filters(self, conv: nn.Conv2d) -> None:
        """Start from the first ``out_channels - dv`` filters of a convolution; those that are frozen stay so."""
        if self.conv is None:
            return
        take_rows(self.conv.weight, conv.weight)
        if self.conv.bias is not None and conv.bias is not None:
            take_rows(self.conv.bias, conv.bias)

    @property
    def host_filters(self) -> int:
        return 0 if self.conv is None else self.conv.out_channels

    @classmethod
    def sized(cls, in_size: tuple[int, int], out_size: tuple[int, int], options: dict[str, Any]) -> dict[str, Any]:
        """The true size for the relative tables, unless the caller gave one."""
        if "feature_size" in options:
            return {}
        every = options.get("downsample", 1)
        check_int("downsample", every)
        height, width = (-(-size // every) for size in out_size)
        return {"feature_size": (height, width)}

    @property
    def blended(self) -> nn.Module:
        return self.attention

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.in_channels, "aaconv")
        attended = self.attention(x)
        return attended if self.conv is None else torch.cat((self.conv(x), attended), dim=1)


def _check_encoding(encoding: object) -> None:
    try:
        check_choice("encoding", encoding, ENCODINGS)
    except UsageError as error:
        raise UsageError(
            f"{error}, beside the relative tables, which relative=False leaves out; the paper's encodings are "
            "relative=False (none), relative=False with encoding='sine2d' or 'coordconv', and the default (relative)"
        ) from None


def _resolve_depths(
    out_channels: int, heads: int, kappa: float, upsilon: float, min_key_dim: int, dk: int | None, dv: int | None
) -> tuple[int, int, int]:
    """The caller's own depths as they are, the others by the paper's ratios."""
    check_int("heads", heads)
    check_int("min_key_dim", min_key_dim)
    check_number("kappa", kappa, low=0, high=math.inf)
    check_number("upsilon", upsilon, low=0, high=1)
    if dk is None or dv is None:
        heads, own_dk, own_dv = attention_depths(out_channels, heads, kappa, upsilon, min_key_dim)
        dk, dv = own_dk if dk is None else dk, own_dv if dv is None else dv
    for name, value in {"dk": dk, "dv": dv}.items():
        check_int(name, value)
        check_divides("heads", heads, name, value)
    if dv > out_channels:
        raise UsageError(f"`dv` (={dv}) must be at most `out_channels` (={out_channels})")
    return heads, dk, dv


def _resolve_kv_heads(heads: int, kv_heads: int | None) -> int:
    if kv_heads is None:
        return heads
    check_int("kv_heads", kv_heads)
    check_divides("kv_heads", kv_heads, "heads", heads)
    return kv_heads


def _floor_to_multiple(value: float, step: int) -> int:
    # Rounded first: 0.29 * 100 is 28.999999999999996.
    return math.floor(round(value / step, 9)) * step
