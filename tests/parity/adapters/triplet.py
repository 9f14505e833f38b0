"""Triplet attention: the authors' module, whose files give no channels."""

from __future__ import annotations

from torch import Tensor

from parity.adapted import Adapted, Slot, Through, layer_names
from saccade.attention.triplet import TripletAttention

LAYERS = {
    "module.spatial.0": "hw.conv.conv",
    "module.spatial.1": "hw.conv.bn",
    "module.channel_width.0": "cw.conv.conv",
    "module.channel_width.1": "cw.conv.bn",
    "module.channel_height.0": "hc.conv.conv",
    "module.channel_height.1": "hc.conv.bn",
}


def of_authors(*, no_spatial: bool = False) -> Adapted:
    module = Through(TripletAttention(1, spatial=not no_spatial), for_any_channels)
    # Theirs convolves over (H, C), ours over (C, H).
    turned = {"hc.conv.conv.weight": Slot("module.channel_height.0.weight", permute=lambda t: t.transpose(2, 3))}
    return Adapted(module, layer_names(LAYERS, module) | turned)


def for_any_channels(module: TripletAttention, x: Tensor) -> Tensor:
    """The parameters are the same for every number of channels."""
    module.channels = x.shape[1]
    return module(x)


ADAPTERS = {("triplet", "landskape-ai/triplet-attention", "triplet_attention.py"): of_authors}
