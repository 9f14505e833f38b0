"""Where attention stands in a host unless the user says."""

from __future__ import annotations

from torch import nn

from saccade.attention.catalog import mechanism

# Attention that takes a convolution's place works on every pair of positions: by default on maps up to 32 x 32, as in
# the AAConv paper's networks.
MAX_POSITIONS = 1024


def usual_place(name: str, model: nn.Module) -> tuple[str, int | None]:
    """The kind of site, or the paths, where a mechanism usually stands, and the largest map that it takes there."""
    kind = mechanism(name).paper.kind
    if kind == "norm":
        return "norm", None
    return (getattr(model, "default_conv", "conv"), MAX_POSITIONS) if kind == "conv" else ("residual", None)
