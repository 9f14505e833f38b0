"""Coordinate attention: the authors' module."""

from __future__ import annotations

from parity.adapted import Adapted, layer_names
from saccade.attention.coord import CoordinateAttention
from saccade.errors import UsageError


def of_authors(*, inp: int, oup: int, reduction: int = 32, mip: int | None = None) -> Adapted:
    if inp != oup:
        raise UsageError(f"`oup` (={oup}) must be `inp` (={inp}): a gate keeps the channels")
    if mip is not None and mip != max(8, inp // reduction):
        raise UsageError(f"`mip` (={mip}) must be {max(8, inp // reduction)} for {inp} channels, reduction {reduction}")
    module = CoordinateAttention(inp, reduction=reduction)
    return Adapted(
        module, layer_names({"reduce": "conv1", "norm": "bn1", "rows": "conv_h", "columns": "conv_w"}, module)
    )


ADAPTERS = {("coordatt", "houqb/CoordAttention", "coordatt.py"): of_authors}
