"""Triplet attention: the authors' module, whose configs give no channels."""

from __future__ import annotations

from parity.adapted import Adapted, Shapes, Slot, layer_names
from saccade.attention.triplet import TripletAttention

LAYERS = {
    "spatial.0": "hw.conv.conv",
    "spatial.1": "hw.conv.bn",
    "channel_width.0": "cw.conv.conv",
    "channel_width.1": "cw.conv.bn",
    "channel_height.0": "hc.conv.conv",
    "channel_height.1": "hc.conv.bn",
}


def of_authors(*, no_spatial: bool = False, shapes: Shapes) -> Adapted:
    module = TripletAttention(shapes["input"][1], spatial=not no_spatial)
    # Theirs convolves over (H, C), ours over (C, H).
    turned = {"hc.conv.conv.weight": Slot("channel_height.0.weight", permute=lambda t: t.transpose(2, 3))}
    return Adapted(module, layer_names(LAYERS, module) | turned)


ADAPTERS = {("triplet", "landskape-ai/triplet-attention", "triplet_attention.py"): of_authors}
