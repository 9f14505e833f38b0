"""SimAM, whose files give no channels."""

from __future__ import annotations

from torch import Tensor

from parity.adapted import Adapted, Through
from saccade.attention.simam import SimAM


def of_authors(*, e_lambda: float = 1e-4) -> Adapted:
    return Adapted(Through(SimAM(1, lam=e_lambda), for_any_channels), {})


def for_any_channels(module: SimAM, x: Tensor) -> Tensor:
    """There are no parameters, so the module is the same for every number of channels."""
    module.channels = x.shape[1]
    return module(x)


ADAPTERS = {("simam", "ZjjConan/SimAM", "networks/attentions/simam_module.py"): of_authors}
