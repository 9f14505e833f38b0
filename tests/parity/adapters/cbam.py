"""Convolutional block attention: the authors' module, and timm's."""

from __future__ import annotations

from parity.adapted import Adapted, layer_names
from saccade.attention.cbam import ConvBlockAttention


def of_authors(
    *,
    gate_channels: int,
    reduction_ratio: int = 16,
    pool_types: list[str] | tuple[str, ...] = ("avg", "max"),
    no_spatial: bool = False,
) -> Adapted:
    module = ConvBlockAttention(
        gate_channels,
        reduction=reduction_ratio,
        pools=tuple(pool_types),
        spatial="none" if no_spatial else "authors",
    )
    layers = {
        "mlp.0": "ChannelGate.mlp.1",
        "mlp.2": "ChannelGate.mlp.3",
        "spatial.0": "SpatialGate.spatial.conv",
        "spatial.1": "SpatialGate.spatial.bn",
    }
    return Adapted(module, layer_names(layers, module))


def of_timm(*, channels: int, rd_channels: int | None = None) -> Adapted:
    # timm's own default is a sixteenth, rounded to the nearest integer.
    width = rd_channels or max(1, int(channels / 16 + 0.5))
    module = ConvBlockAttention(channels, width=width, bias=False, spatial="timm")
    layers = {
        "mlp.0": "channel.fc1",
        "mlp.2": "channel.fc2",
        "spatial.0": "spatial.conv.conv",
        "spatial.1": "spatial.conv.bn",
    }
    return Adapted(module, layer_names(layers, module))


ADAPTERS = {
    ("cbam", "Jongchan/attention-module", "MODELS/cbam.py"): of_authors,
    ("cbam", "huggingface/pytorch-image-models (timm wheel)", "timm/layers/cbam.py"): of_timm,
}
