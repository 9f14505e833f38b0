"""Efficient channel attention: one kernel, or one for every channel."""

from __future__ import annotations

from parity.adapted import Adapted
from saccade.attention.eca import EfficientChannelAttention


def of_authors(*, channel: int, k_size: int = 3) -> Adapted:
    return Adapted(EfficientChannelAttention(channel, kernel_size=k_size), {"conv.weight": "weight"})


def of_authors_not_shared(*, channel: int, k_size: int = 3) -> Adapted:
    return Adapted(EfficientChannelAttention(channel, kernel_size=k_size, shared=False), {"conv.weight": "weight"})


ADAPTERS = {
    ("eca", "BangguWu/ECANet", "models/eca_module.py"): of_authors,
    ("eca", "BangguWu/ECANet", "models/eca_ns.py"): of_authors_not_shared,
}
