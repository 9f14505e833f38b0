"""Spatial group-wise enhance, whose configs give groups but no channels."""

from __future__ import annotations

from parity.adapted import Adapted, Shapes
from saccade.attention.sge import SpatialGroupEnhance


def of_authors(*, groups: int = 64, shapes: Shapes) -> Adapted:
    module = SpatialGroupEnhance(shapes["input"][1], groups=groups)
    return Adapted(module, {"weight": "weight", "bias": "bias"})


ADAPTERS = {("sge", "implus/PytorchInsight", "classification/models/imagenet/resnet_sge.py"): of_authors}
