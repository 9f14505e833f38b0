"""Spatial group-wise enhance, whose files give groups but no channels."""

from __future__ import annotations

from torch import Tensor

from parity.adapted import Adapted, Through
from saccade._checks import check_divides
from saccade.attention.sge import SpatialGroupEnhance


def of_authors(*, groups: int = 64) -> Adapted:
    module = Through(SpatialGroupEnhance(groups, groups=groups), for_any_channels)
    return Adapted(module, {"weight": "module.weight", "bias": "module.bias"})


def for_any_channels(module: SpatialGroupEnhance, x: Tensor) -> Tensor:
    """The parameters are those of the groups, the same for every number of channels."""
    check_divides("groups", module.groups, "channels", x.shape[1])
    module.channels = x.shape[1]
    return module(x)


ADAPTERS = {("sge", "implus/PytorchInsight", "classification/models/imagenet/resnet_sge.py"): of_authors}
