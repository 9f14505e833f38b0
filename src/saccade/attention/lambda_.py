"""Lambda layer: every pixel turns what surrounds it into a linear function, and applies it to its query."""

# B batch, C channels, H W the map, n a pixel (query), m a pixel of its context, N heads, k depth of a query, u
# intra-depth, v depth of a value

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_divides, check_int, check_map, largest_divisor
from saccade.attention._base import ConvLike
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d
from saccade.attention._sampling import Sampling, pair, strided_average
from saccade.errors import UsageError
from saccade.ops import resize_relative_table

PAPER = Paper(
    title="LambdaNetworks: Modeling Long-Range Interactions Without Attention",
    authors="Irwan Bello",
    year=2021,
    venue="ICLR",
    arxiv="2102.08602",
    kind="conv",
    attends="positions",
    equations=(
        "q, K, V = BN(W_Q x), softmax over positions of W_K x, BN(W_V x)",
        "lambda_c = sum over m of K_m^T V_m, the same for every pixel",
        "lambda_p[n] = sum over m of E[m - n]^T V_m, m within r x r pixels around n, or anywhere",
        "y_n = concat over heads of (lambda_c + lambda_p[n])^T q_n; all heads share the lambdas",
    ),
    deviations=(
        "heads: the largest divisor of the output channels not above the paper's 4, unless given.",
        (
            "position_bias: the equations have none (False); the convolutions in timm and in lucidrains' code at the "
            "commit we compare with have one (True)."
        ),
        (
            "A stride s averages s x s pixels after the layer (3 x 3 in the paper, from memory; 2 x 2 in timm), at the "
            "border those that exist."
        ),
        (
            "As in lucidrains' code at the commit we compare with, E starts from N(0, 1) for the whole map, and as "
            "PyTorch's convolutions do for local contexts; so does the 1 x 1 convolution. position_bias starts at 0."
        ),
        "With context=None and a map of another size, E is interpolated linearly over offsets.",
        "Of a convolution's kernel size, padding and dilation only the centres of its filters count: the pixels seen.",
        "Where a channel has a single value in train mode (batch 1 on a 1 x 1 map), BatchNorm uses running statistics.",
    ),
    limits=(
        "The position lambdas take H * W * key_depth * out_channels / heads numbers per image.",
        "context=None costs as a convolution with a kernel of (2H - 1) x (2W - 1) pixels.",
    ),
)


def content_lambda(k: Tensor, v: Tensor) -> Tensor:
    """What all pixels share: k (B, u, k, n), normalised here over the pixels, v (B, u, v, n) -> (B, k, v)."""
    return torch.einsum("bukm,buvm->bkv", k.softmax(dim=-1), v)


def position_lambdas(v: Tensor, embeddings: Tensor, bias: Tensor | None = None) -> Tensor:
    """What every pixel has of its own: v (B, u, v, H, W) and E (k, u, 2a + 1, 2b + 1) -> (B, v, k, H, W).

    E holds the offsets (context minus query) from -a to a and from -b to b; the sum over the context is a convolution
    of every channel of the values, with zeros around the map.
    """
    reach = [(n - 1) // 2 for n in embeddings.shape[2:]]
    v = v.transpose(1, 2)
    return F.conv2d(v.flatten(0, 1), embeddings, bias, padding=reach).unflatten(0, v.shape[:2])


def apply_lambdas(q: Tensor, content: Tensor, positions: Tensor) -> Tensor:
    """q (B, N, k, n), content (B, k, v), positions (B, v, k, n) -> (B, N, v, n), the lambdas shared by the heads."""
    # Content apart: its product is over all pixels at once, and the position lambdas need no copy to take it in.
    return torch.einsum("bhkn,bkv->bhvn", q, content) + torch.einsum("bhkn,bvkn->bhvn", q, positions)


class LambdaLayer2d(ConvLike):
    """Lambda layer (Bello, ICLR 2021, arXiv 2102.08602, equations 1 to 3 and the lambda convolution).

    ``y_n = (lambda_c + lambda_p[n])^T q_n`` for each of N queries of pixel n, with ``lambda_c = softmax(K)^T V`` and
    ``lambda_p[n] = E_n^T V``. The paper's k, u, r, |h| are ``key_depth``, ``intra_depth``, ``context``, ``heads``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation: as ``torch.nn.Conv2d``; ``padding=None``
            keeps the size of odd kernels at stride 1. A stride averages the result over as many pixels.
        heads: N; by default the largest divisor of ``out_channels`` not above 4.
        key_depth: k, 16.
        intra_depth: u, 1.
        context: r, 23: the odd length of the square around a pixel from which its position lambda is made. ``None`` is
            the whole map, with an embedding for every offset on a map of ``feature_size``.
        feature_size: the map (H or (H, W)) on which the layer works, before the stride, for ``context=None``. Another
            size at run time reads the embeddings by interpolation.
        position_bias: a bias of the position lambdas, one number for each of the k rows.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H', W') with the convolution's H', W'.

    Raises:
        UsageError: sizes out of range, heads that do not divide, an even context, ``feature_size`` missing or in vain;
            a map with another number of channels.
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
        key_depth: int = 16,
        intra_depth: int = 1,
        context: int | None = 23,
        feature_size: int | tuple[int, int] | None = None,
        position_bias: bool = False,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__()
        check_int("in_channels", in_channels)
        check_int("out_channels", out_channels)
        check_int("key_depth", key_depth)
        check_int("intra_depth", intra_depth)
        check_bool("position_bias", position_bias)
        heads = largest_divisor(out_channels, 4) if heads is None else heads
        check_int("heads", heads)
        check_divides("heads", heads, "out_channels", out_channels)
        self.in_channels, self.heads, self.key_depth, self.intra_depth = in_channels, heads, key_depth, intra_depth
        self.local = context is not None
        self.stride = pair("stride", stride)
        self.sampling = Sampling.of_convolution(kernel_size, 1, padding, dilation)
        depth = out_channels // heads
        self.widths = (heads * key_depth, key_depth * intra_depth, depth * intra_depth)
        self.qkv = nn.Conv2d(in_channels, sum(self.widths), 1, bias=False)
        self.norm_q = BatchNorm2d(self.widths[0])
        self.norm_v = BatchNorm2d(self.widths[2])
        shape = (key_depth, intra_depth, *_extent(context, feature_size))
        bound = math.prod(shape[1:]) ** -0.5
        self.embeddings = nn.Parameter(torch.empty(shape).uniform_(-bound, bound) if self.local else torch.randn(shape))
        self.position_bias = nn.Parameter(torch.zeros(key_depth)) if position_bias else None

    @classmethod
    def sized(cls, in_size: tuple[int, int], out_size: tuple[int, int], options: dict[str, Any]) -> dict[str, Any]:
        """The true size for the embeddings of the whole map, unless the caller gave one: before the stride."""
        needed = "context" in options and options["context"] is None and "feature_size" not in options
        return {"feature_size": in_size} if needed else {}

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.in_channels, "lambda")
        q, k, v = self.qkv(self.sampling(x)).split(self.widths, dim=1)
        size = q.shape[2:]
        q = self.norm_q(q).unflatten(1, (self.heads, self.key_depth)).flatten(3)
        k = k.unflatten(1, (self.intra_depth, self.key_depth)).flatten(3)
        v = self.norm_v(v).unflatten(1, (self.intra_depth, -1))
        embeddings = self.embeddings if self.local else _resized(self.embeddings, *size)
        positions = position_lambdas(v, embeddings, self.position_bias).flatten(3)
        out = apply_lambdas(q, content_lambda(k, v.flatten(3)), positions)
        return strided_average(out.flatten(1, 2).unflatten(2, size), self.stride)


def _extent(context: int | None, feature_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """How many offsets there are down and across."""
    if context is None:
        if feature_size is None:
            raise UsageError("`feature_size` must be given for context=None: the map on which the layer works")
        height, width = pair("feature_size", feature_size)
        return 2 * height - 1, 2 * width - 1
    if feature_size is not None:
        raise UsageError(f"`feature_size` (={feature_size!r}) is for context=None only; leave it out")
    check_int("context", context)
    if context % 2 == 0:
        raise UsageError(f"`context` (={context}) must be odd: a pixel is in the middle of its context")
    return context, context


def _resized(embeddings: Tensor, height: int, width: int) -> Tensor:
    """Embeddings of the offsets on another map: (k, u, 2H'-1, 2W'-1) -> (k, u, 2H-1, 2W-1)."""
    k, u, _, across = embeddings.shape
    down = resize_relative_table(embeddings.permute(2, 0, 1, 3).flatten(1), height)
    right = down.unflatten(1, (k, u, across)).permute(3, 1, 2, 0).flatten(1)
    return resize_relative_table(right, width).unflatten(1, (k, u, 2 * height - 1)).permute(1, 2, 3, 0)
