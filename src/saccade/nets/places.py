"""Where attention stands in a host unless the user says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from saccade._api import augment
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


def add_attention(
    host: nn.Module,
    name: str,
    *,
    at: Sequence[str] | None,
    options: dict[str, Any],
    start: str,
    example_input: Tensor,
    inplace: bool = False,
) -> nn.Module:
    """As :func:`saccade.augment`; without ``at``, where the mechanism usually stands."""
    usual, most = usual_place(name, host)
    return augment(
        host,
        name,
        at=at or usual,
        options=options,
        start=start,
        max_positions=None if at else most,
        example_input=example_input,
        inplace=inplace,
    )


def is_residual_form(name: str, start: str | None) -> bool:
    """Whether the mechanism does not take the convolution's place, as in its paper, but is added beside it."""
    return start == "identity" and mechanism(name).paper.kind == "conv"
