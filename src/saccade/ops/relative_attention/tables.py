"""Tables of offsets: which row is whose, reading them at another length, and their gradients."""

# L a length of the map, H or W; d depth of a key

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def offset_rows(size: int, device: torch.device) -> Tensor:
    """(query, key) -> the row of the table for the offset key - query: key - query + size - 1."""
    place = torch.arange(size, device=device)
    return place[None, :] - place[:, None] + size - 1


def gather_offsets(table: Tensor, size: int) -> Tensor:
    """The embedding of every pair of places: (2L-1, d) -> (query L, key L, d)."""
    return table[offset_rows(size, table.device)]


def scatter_offsets(pairs: Tensor) -> Tensor:
    """The gradient of a table from that of its pairs, (query L, key L, d) -> (2L-1, d): the sums of the diagonals."""
    size = pairs.shape[0]
    # Each row moved so that equal offsets stand in one column: a sum in a fixed order, without atomics on any device.
    padded = F.pad(pairs.flip(0), (0, 0, 0, size)).flatten(0, 1)
    return padded[: size * (2 * size - 1)].unflatten(0, (size, 2 * size - 1)).sum(0)


def resize_relative_table(table: Tensor, size: int) -> Tensor:
    """Read a table of 2L-1 offset embeddings on a map of another length: (2L-1, d) -> (2 size - 1, d).

    Equal size: exactly the table. Smaller: exactly its centre rows. Larger: the offsets are interpolated linearly, the
    outermost offsets keeping their rows. One formula without a branch on the size, so that one exported program serves
    all sizes.
    """
    reach = (table.shape[0] - 1) // 2
    offsets = torch.arange(1 - size, size, device=table.device, dtype=torch.float32)
    # Multiplied before the division, so that the outermost offsets land on their rows without rounding.
    place = offsets * reach / offsets[-1:].clamp(min=max(reach, 1)) + reach
    low = place.floor()
    high = (low + 1).clamp(max=2 * reach)
    return torch.lerp(table[low.long()], table[high.long()], (place - low).to(table.dtype)[:, None])
