"""Where the pixels of a map are, in numbers from -1 to 1."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor


def axis_coordinates(size: int, like: Tensor, *, align_corners: bool = True) -> Tensor:
    """The coordinates of ``size`` rows or columns, (size,), on the device of ``like`` and in float32 at least.

    With ``align_corners`` the first is at -1 and the last at 1, ``(2 i - (n - 1)) / (n - 1)``, and a single one at 0.
    Otherwise -1 and 1 are the outer edges of the outer pixels: ``(2 i - (n - 1)) / n``.
    """
    steps = 2 * torch.arange(size, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32)) - (
        size - 1
    )
    # Without a branch on the size, so that one exported program serves every size.
    span = cast(int, torch.sym_max(size - 1, 1)) if align_corners else size
    return steps / span
