"""Shuffle attention."""

from __future__ import annotations

from parity.adapted import Adapted
from saccade.attention.shuffle import ShuffleAttention

NAMES = {
    "cweight": "channel_weight",
    "cbias": "channel_bias",
    "sweight": "spatial_weight",
    "sbias": "spatial_bias",
    "gn.weight": "norm_weight",
    "gn.bias": "norm_bias",
}


def of_authors(*, channel: int, groups: int = 64) -> Adapted:
    return Adapted(ShuffleAttention(channel, groups=groups), NAMES)


ADAPTERS = {("shuffle", "wofmanaf/SA-Net", "models/sa_resnet.py"): of_authors}
