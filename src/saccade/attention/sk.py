"""Selective kernel: convolutions of several reaches side by side, and a choice among them for every channel."""

# B batch, C channels, H W the map, M branches, R hidden width

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_divides, check_int, check_map, hidden_width, largest_divisor
from saccade.attention._base import ConvLike
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d
from saccade.attention._sampling import pair
from saccade.errors import UsageError

Pair = tuple[int, int]
GROUPS = 32  # the paper's G

PAPER = Paper(
    title="Selective Kernel Networks",
    authors="Xiang Li, Wenhai Wang, Xiaolin Hu, Jian Yang",
    year=2019,
    venue="CVPR",
    arxiv="1903.06586",
    kind="conv",
    attends="channel",
    equations=(
        "u_m = relu(BN(conv_m(x))), the branches m = 1 .. M",
        "s = mean of (u_1 + .. + u_M) over H, W",
        "z = relu(BN(W s)), of width max(C // reduction, min_width)",
        "a_m = softmax over the branches of A_m z, one weight per channel",
        "y = a_1 u_1 + .. + a_M u_M",
    ),
    deviations=(
        "The paper's settings (M = 2, G = 32, r = 16, L = 32) and equations are from memory.",
        (
            "The second branch is a k x k convolution with dilation 2 in the place of the larger kernel, as in the "
            "paper; dilated=False takes the kernel of the same reach, 5 x 5 beside 3 x 3."
        ),
        (
            "The first author's later code: branch_groups=(1, 32), dilations=(1, 1), min_width=1. timm's: "
            "branch_groups=1, split_input=True, its own hidden width."
        ),
        "Where no size is given, groups are the largest divisor of the channels that is not above 32.",
        "Where a channel has a single value in train mode (z at batch 1), BatchNorm uses running statistics.",
    ),
    limits=(
        (
            "z is normalised over the images of a batch alone: in train mode two images leave little more than the "
            "sign of their difference."
        ),
        "Of a convolution's place it takes channels and geometry, not the filters.",
    ),
)


def branch_geometry(
    kernel_size: int | tuple[int, int],
    padding: int | tuple[int, int] | None,
    dilation: int | tuple[int, int],
    spread: int,
    dilated: bool,
) -> tuple[Pair, Pair, Pair]:
    """Kernel, padding and dilation of a branch that reaches ``spread`` times as far, for a map of the same size."""
    kernel, steps = pair("kernel_size", kernel_size), pair("dilation", dilation)
    reach = [d * (k - 1) for d, k in zip(steps, kernel, strict=True)]
    margin = [r // 2 for r in reach] if padding is None else pair("padding", padding, at_least=0)
    further = [r * (spread - 1) for r in reach]
    if any(f % 2 for f in further):
        raise UsageError(
            f"`kernel_size` (={kernel}) must be odd for a branch with {spread} in `dilations`: no padding gives it the "
            "size of the others; or give odd `dilations`"
        )
    margin = tuple(m + f // 2 for m, f in zip(margin, further, strict=True))
    if dilated:
        steps = tuple(spread * d for d in steps)
    else:
        kernel = tuple(spread * (k - 1) + 1 for k in kernel)
    return cast(Pair, kernel), cast(Pair, margin), cast(Pair, steps)


def squeeze_branches(branches: Sequence[Tensor]) -> Tensor:
    """The mean over the map of the sum of the branches, each (B, C, H, W): (B, C)."""
    # The sum of the means, so that the sum needs no map of its own.
    return torch.stack([branch.mean(dim=(2, 3)) for branch in branches]).sum(0)


def select_branches(branches: Sequence[Tensor], logits: Tensor) -> Tensor:
    """The branches, M of (B, C, H, W), weighed by the softmax of logits (B, M, C) over M: (B, C, H, W)."""
    weights = logits.softmax(dim=1)[..., None, None].to(branches[0].dtype).unbind(1)
    out = branches[0] * weights[0]
    for branch, weight in zip(branches[1:], weights[1:], strict=True):
        out = torch.addcmul(out, branch, weight)
    return out


class SelectiveKernel2d(ConvLike):
    """Selective kernel convolution (Li et al., CVPR 2019, arXiv 1903.06586).

    Split: ``u_m = relu(BN(conv_m(x)))``. Fuse: ``z = relu(BN(W s))`` with s the mean of the branches' sum over the map.
    Select: ``y = sum a_m u_m`` with ``a_m = softmax(A_m z)`` over the branches, for every channel. The paper's G is our
    ``branch_groups``, its r ``reduction``, its L ``min_width``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation: as ``torch.nn.Conv2d``, of a branch whose
            entry in ``dilations`` is 1; ``padding=None`` keeps the size of odd kernels at stride 1. A BatchNorm follows
            every convolution, so that none has a bias.
        dilations: of the branches, each a multiple of ``dilation``; as many branches as entries, 2 at least.
        dilated: False gives a branch the whole kernel of its reach instead of a dilated one: 5 x 5 for (3, 3) and 2.
        branch_groups: of the convolutions, one number for all or one for each; None is the largest legal one up to 32.
        split_input: whether every branch sees its own share of the input channels, as in timm, instead of all.
        reduction, min_width: z has the width ``max(out_channels // reduction, min_width)``; 16 and 32.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H', W') with the convolution's H', W'.

    Raises:
        UsageError: sizes out of range; fewer than 2 branches; groups that do not divide both numbers of channels;
            branches that cannot share the channels; an even kernel whose branches would have maps of different sizes;
            a map with another number of channels.
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
        dilations: Sequence[int] = (1, 2),
        dilated: bool = True,
        branch_groups: int | Sequence[int] | None = None,
        split_input: bool = False,
        reduction: int = 16,
        min_width: int = 32,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__()
        check_int("in_channels", in_channels)
        check_int("out_channels", out_channels)
        check_int("min_width", min_width)
        check_bool("dilated", dilated)
        check_bool("split_input", split_input)
        _check_dilations(dilations)
        if split_input:
            check_divides("len(dilations)", len(dilations), "in_channels", in_channels)
        share = in_channels // len(dilations) if split_input else in_channels
        width = max(hidden_width(out_channels, reduction), min_width)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.split_input = split_input
        all_groups = _resolve_groups(branch_groups, len(dilations), share, out_channels)
        self.branches = nn.ModuleList()
        for spread, groups in zip(dilations, all_groups, strict=True):
            kernel, margin, steps = branch_geometry(kernel_size, padding, dilation, spread, dilated)
            conv = nn.Conv2d(
                share, out_channels, kernel, pair("stride", stride), margin, steps, groups=groups, bias=False
            )
            self.branches.append(nn.Sequential(conv, BatchNorm2d(out_channels), nn.ReLU(inplace=True)))
        self.reduce = nn.Linear(out_channels, width, bias=False)
        self.norm = BatchNorm2d(width)
        self.select = nn.Linear(width, len(dilations) * out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.in_channels, "sk")
        count = len(self.branches)
        inputs = x.chunk(count, dim=1) if self.split_input else (x,) * count
        branches = [branch(part) for branch, part in zip(self.branches, inputs, strict=True)]
        squeezed = self.reduce(squeeze_branches(branches))
        z = F.relu(self.norm(squeezed[:, :, None, None]).flatten(1))
        return select_branches(branches, self.select(z).unflatten(1, (count, self.out_channels)))


def _check_dilations(dilations: object) -> None:
    if not isinstance(dilations, list | tuple) or len(dilations) < 2:
        raise UsageError(f"`dilations` (={dilations!r}) must be two integers at least, one for each branch")
    for spread in dilations:
        check_int("dilations", spread)


def _resolve_groups(groups: int | Sequence[int] | None, branches: int, share: int, out_channels: int) -> list[int]:
    """The groups of every branch."""
    if groups is None:
        return [largest_divisor(math.gcd(share, out_channels), GROUPS)] * branches
    each: list[Any] = list(groups) if isinstance(groups, list | tuple) else [groups] * branches
    if len(each) != branches:
        raise UsageError(f"`branch_groups` (={groups!r}) must be one integer, or one for each of {branches} branches")
    for entry in each:
        check_int("branch_groups", entry)
        check_divides("branch_groups", entry, "a branch's in_channels", share)
        check_divides("branch_groups", entry, "out_channels", out_channels)
    return each
