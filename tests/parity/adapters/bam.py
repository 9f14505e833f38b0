"""Bottleneck attention: the authors' module, which averages only the first H columns of a map."""

from __future__ import annotations

from torch import Tensor

from parity.adapted import Adapted, Fault, layer_names
from saccade.attention.bam import BottleneckAttentionModule

LAYERS = {
    "channel.0": "channel_att.gate_c.gate_c_fc_0",
    "channel.1": "channel_att.gate_c.gate_c_bn_1",
    "channel.3": "channel_att.gate_c.gate_c_fc_final",
    "spatial.0": "spatial_att.gate_s.gate_s_conv_reduce0",
    "spatial.1": "spatial_att.gate_s.gate_s_bn_reduce0",
    "spatial.3": "spatial_att.gate_s.gate_s_conv_di_0",
    "spatial.4": "spatial_att.gate_s.gate_s_bn_di_0",
    "spatial.6": "spatial_att.gate_s.gate_s_conv_di_1",
    "spatial.7": "spatial_att.gate_s.gate_s_bn_di_1",
    "spatial.9": "spatial_att.gate_s.gate_s_conv_final",
}


def of_authors(*, gate_channel: int, combine: str = "product") -> Adapted:
    """The code multiplies the branches; a file with ``combine: sum`` adds them."""
    module = BottleneckAttentionModule(gate_channel, combine=combine, norm_last=False)
    return Adapted(module, layer_names(LAYERS, module))


def first_columns(module: BottleneckAttentionModule, x: Tensor) -> Tensor:
    """Our module with the means of the first H columns instead of all W."""
    return x * module.joined(x, x[..., : x.shape[2]].mean(dim=(2, 3), keepdim=True))


AUTHORS = ("bam", "Jongchan/attention-module", "MODELS/bam.py")

ADAPTERS = {AUTHORS: of_authors}
FAULTS = {
    AUTHORS: Fault(
        "the channel branch averages only the first H columns of a map that is wider than high",
        # The distance on the stored file is 0.11; it is small where the columns left out are like the others.
        distance=0.01,
        reproduce=first_columns,
    ),
}
