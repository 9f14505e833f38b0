"""SimAM, whose configs give no channels."""

from __future__ import annotations

from parity.adapted import Adapted, Shapes
from saccade.attention.simam import SimAM


def of_authors(*, e_lambda: float = 1e-4, shapes: Shapes) -> Adapted:
    return Adapted(SimAM(shapes["input"][1], lam=e_lambda), {})


ADAPTERS = {("simam", "ZjjConan/SimAM", "networks/attentions/simam_module.py"): of_authors}
