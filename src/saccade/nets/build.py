"""From a model's name on a command line to the host of a comparison."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from saccade.errors import UsageError
from saccade.nets.hosts import Host


def build_model(
    name: str, *, in_channels: int, num_classes: int, image_size: int | None = None, pretrained: bool = False
) -> nn.Module:
    """Build a host for images of ``in_channels`` channels and ``num_classes`` classes.

    Args:
        name: as :meth:`Host.parse` takes it, with options, such as ``saccade:cifar_resnet(depth=20)``.
        in_channels: of the images; torchvision's networks take 3 only.
        num_classes: outputs.
        image_size: the side of the images, for the papers' networks, of which some have a size.
        pretrained: with the library's weights, but for a head of another number of classes.
    """
    host = Host.parse(name).sized(image_size)
    return build_for(host, in_channels=in_channels, num_classes=num_classes, pretrained=pretrained)


def build_for(host: Host, *, in_channels: int, num_classes: int, pretrained: bool) -> nn.Module:
    """Build a host with the library's own names for what follows from the images."""
    name = str(host)
    names = {"timm": ("in_chans", "num_classes"), "torchvision": (None, "num_classes")}
    channels, classes = names.get(host.library, ("in_channels", "num_classes"))
    if given := {channels, classes} & host.options.keys():
        raise UsageError(f"`model` (={name!r}) must not give {' or '.join(sorted(given))}: they follow from the images")
    if channels is None and in_channels != 3:
        raise UsageError(f"`model` (={name!r}) takes images of 3 channels; these have {in_channels}")
    settled = {classes: num_classes} | ({channels: in_channels} if channels else {})
    return replace(host, options=host.options | settled).build(pretrained=pretrained)


def pretrained_statistics(name: str, model: nn.Module) -> tuple[list[float], list[float]] | None:
    """Mean and deviation of each channel, in units of 0..255, by which the images of a host's weights were normalised;
    None where nothing says it."""
    host = Host.parse(name)
    if host.library == "torchvision":
        from torchvision import models

        given = models.get_model_weights(host.name)["DEFAULT"].transforms()
        mean, deviation = given.mean, given.std
    else:
        config = getattr(model, "pretrained_cfg", None) or {}
        mean, deviation = config.get("mean"), config.get("std")
    return ([255 * m for m in mean], [255 * d for d in deviation]) if mean and deviation else None
