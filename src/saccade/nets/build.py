"""From a model's name on a command line to the network."""

from __future__ import annotations

from torch import nn

from saccade._checks import check_choice, check_options
from saccade._specs import parse_spec
from saccade.errors import UsageError
from saccade.nets.cifar_resnet import CifarResNet

NETS: dict[str, type[nn.Module]] = {"cifar_resnet": CifarResNet}


def build_model(name: str, *, in_channels: int, num_classes: int) -> nn.Module:
    """Build a host for images of ``in_channels`` channels and ``num_classes`` classes.

    Args:
        name: ``saccade:NAME`` or ``saccade:NAME(option=value)``, such as ``saccade:cifar_resnet(depth=20)``.
    """
    library, _, spec_text = name.partition(":")
    if library != "saccade" or not spec_text:
        listed = ", ".join(f"saccade:{net}" for net in NETS)
        raise UsageError(f"`model` (={name!r}) must be one of {listed}, with options such as (depth=20)")
    spec = parse_spec(spec_text, "model")
    check_choice("model", spec.name, NETS)
    net = NETS[spec.name]
    options = dict(spec.options)
    if given := {"in_channels", "num_classes"} & options.keys():
        raise UsageError(f"`model` (={name!r}) must not give {' or '.join(sorted(given))}: they follow from the images")
    depth = {"depth": options.pop("depth")} if "depth" in options else {}
    check_options(spec.name, net, options)
    return net(**depth, **options, in_channels=in_channels, num_classes=num_classes)
