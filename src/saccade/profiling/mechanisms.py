"""What one mechanism of the catalogue costs on a map of a given size, counted without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from saccade._api import create_attention
from saccade.attention.catalog import check_mechanism, mechanism
from saccade.profiling.macs import count_macs


@dataclass(frozen=True)
class MechanismCost:
    """Parameters and multiply-accumulates of a mechanism on one map (C, H, W)."""

    channels: int
    height: int
    width: int
    params: int
    macs: int


def mechanism_cost(name: str, channels: int, height: int, width: int, **options: Any) -> MechanismCost:
    """Count on the meta device: a mechanism with a billion parameters takes no memory.

    One that takes a convolution's place is counted as a whole, as a 3 x 3 one from C to C channels.
    """
    check_mechanism(name, options)
    size = (height, width)
    sizes = mechanism(name).sized(size, size, options)
    with torch.device("meta"):
        module = create_attention(name, channels, **sizes, **options)
        macs = count_macs(module, torch.empty(1, channels, height, width))
    params = sum(parameter.numel() for parameter in module.parameters())
    return MechanismCost(channels, height, width, params, macs)
