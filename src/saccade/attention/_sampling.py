"""Where attention looks from when it takes a convolution's place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade._checks import check_int
from saccade.errors import UsageError


class Sampling:
    """Which pixels are the centres of a convolution's filters: where attention looks from, so that the maps match."""

    def __init__(
        self,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> None:
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        # The pixels before the first and behind the last centre; fewer than none where a large padding puts centres
        # outside the map.
        self.before = tuple(r // 2 - p for r, p in zip(reach, padding, strict=True))
        self.after = tuple(r - r // 2 - p for r, p in zip(reach, padding, strict=True))

    @classmethod
    def of_convolution(cls, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> Sampling:
        """From a convolution's arguments, integers or pairs; ``padding=None`` keeps the size at stride 1."""
        kernel, steps = pair("kernel_size", kernel_size), pair("stride", stride)
        spread = pair("dilation", dilation)
        if padding is None:
            padding = same_padding(kernel, spread)
        return cls(kernel, steps, pair("padding", padding, at_least=0), spread)

    def __call__(self, x: Tensor) -> Tensor:
        """The pixels at the centres, zeros for those outside the map: a map of the convolution's output size."""
        if min(*self.before, *self.after) < 0:
            (top, left), (bottom, right) = self.before, self.after
            x = F.pad(x, (-left, -right, -top, -bottom))  # a negative number crops
        else:
            rows, columns = (slice(a, -b or None) for a, b in zip(self.before, self.after, strict=True))
            x = x[:, :, rows, columns]
        # Every stride-th pixel; by pooling, so that torch.export finds the size by the convolution's own formula.
        return x if self.stride == (1, 1) else F.avg_pool2d(x, 1, self.stride)


def strided_average(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Average over ``stride`` pixels, at the border over those that exist: a map (B, C, H, W) of ceil(H/s), ceil(W/s).

    As average pooling with ``ceil_mode``, by a formula for the size that torch.export can follow.
    """
    if stride == (1, 1):
        return x
    surplus = (0, stride[1] - 1, 0, stride[0] - 1)
    share = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), surplus), stride)
    return F.avg_pool2d(F.pad(x, surplus), stride) / share


def same_padding(kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """The padding that keeps the size at stride 1, of odd kernels."""
    return dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2


def pair(name: str, value: int | tuple[int, int], *, at_least: int = 1) -> tuple[int, int]:
    """An argument for both axes, or one for each, as (height, width)."""
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2:
        raise UsageError(f"`{name}` (={value!r}) must be one integer or two, (height, width)")
    for entry in both:
        check_int(name, entry, at_least=at_least)
    return both
