"""Polarized self-attention: the authors' two modules, and a port that follows the paper's equations."""

from __future__ import annotations

from parity.adapted import Adapted, Shapes, layer_names
from saccade.attention.psa import PolarizedSelfAttention
from saccade.errors import UsageError


def of_authors(*, inplanes: int, planes: int, shapes: Shapes) -> Adapted:
    if inplanes != planes:
        raise UsageError(f"`planes` (={planes}) must be `inplanes` (={inplanes}): a gate keeps the channels")
    layout = "parallel" if "param.conv_up.weight" in shapes else "sequential"
    module = PolarizedSelfAttention(inplanes, layout=layout, form="authors")
    layers = {
        "channel_query": "conv_q_right",
        "channel_value": "conv_v_right",
        "spatial_query": "conv_q_left",
        "spatial_value": "conv_v_left",
    }
    if layout == "parallel":
        layers["channel_up.0"] = "conv_up"
    else:
        layers |= {f"channel_up.{place}": f"conv_up.{place}" for place in (0, 1, 3)}
    return Adapted(module, layer_names(layers, module))


def of_xmu(*, channel: int, case: str = "") -> Adapted:
    module = PolarizedSelfAttention(channel, layout=layout_of(case))
    layers = {
        "channel_query": "ch_wq",
        "channel_value": "ch_wv",
        "channel_up.0": "ch_wz",
        "channel_up.1": "ln",
        "spatial_query": "sp_wq",
        "spatial_value": "sp_wv",
    }
    return Adapted(module, layer_names(layers, module))


def layout_of(case: str) -> str:
    """The layout, which a file of the port says in its case alone: neither its config nor its names differ."""
    layouts = [layout for layout in ("parallel", "sequential") if layout in case]
    if len(layouts) != 1:
        raise UsageError(f"the case (={case!r}) of a psa file must say 'parallel' or 'sequential'")
    return layouts[0]


ADAPTERS = {
    ("psa", "DeLightCMU/PSA", "semantic-segmentation/network/PSA.py"): of_authors,
    (
        "psa",
        "xmu-xiaoma666/External-Attention-pytorch",
        "model/attention/PolarizedSelfAttention.py",
    ): of_xmu,
}
