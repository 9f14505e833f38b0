"""The channel shuffle, which mixes groups of channels that were worked on apart."""

# B batch, C channels, H W the map

from __future__ import annotations

from torch import Tensor


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels out like cards: x (B, C, H, W), C a multiple of ``groups`` -> the same channels, reordered.

    The first channels of all groups come first, then the second ones: channel g (C / groups) + i goes to i groups + g.
    """
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
