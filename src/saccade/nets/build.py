"""From a model's name on a command line to the host of a comparison."""

from __future__ import annotations

from torch import nn

from saccade.errors import UsageError
from saccade.nets.hosts import NETS, Host


def build_model(name: str, *, in_channels: int, num_classes: int) -> nn.Module:
    """Build a host for images of ``in_channels`` channels and ``num_classes`` classes.

    Args:
        name: ``saccade:NAME`` or ``saccade:NAME(option=value)``, such as ``saccade:cifar_resnet(depth=20)``.
    """
    host = Host.parse(name)
    if host.library != "saccade":
        listed = ", ".join(f"saccade:{net}" for net in NETS)
        raise UsageError(f"`model` (={name!r}) must be one of {listed}, with options such as (depth=20)")
    if given := {"in_channels", "num_classes"} & host.options.keys():
        raise UsageError(f"`model` (={name!r}) must not give {' or '.join(sorted(given))}: they follow from the images")
    return Host("saccade", host.name, host.options | {"in_channels": in_channels, "num_classes": num_classes}).build()
