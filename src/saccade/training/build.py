"""What every run of a seed shares: the host as the seed makes it, and images as the host's weights know them."""

from __future__ import annotations

import torch
from torch import nn

from saccade._seeds import derive_seed
from saccade.data import ImageData
from saccade.nets.build import build_model, pretrained_statistics


def build_host(model: str, data: ImageData, seed: int, *, pretrained: bool = False) -> nn.Module:
    """The host of a seed. It is built under that seed, and the generator is left at another one derived from it, under
    which attention is to be built: with whatever attention, the runs of a seed share the host's weights."""
    torch.manual_seed(derive_seed(seed, "host"))
    channels, side, _ = data.shape
    host = build_model(
        model, in_channels=channels, num_classes=len(data.classes), image_size=side, pretrained=pretrained
    )
    torch.manual_seed(derive_seed(seed, "attention"))
    return host


def as_the_weights_know(name: str, model: nn.Module, data: ImageData) -> ImageData:
    """The images, normalised as those were on which the pretrained weights of a named host were trained."""
    statistics = pretrained_statistics(name, model)
    if statistics is None or len(statistics[0]) != data.shape[0]:
        return data
    return data.normalised_by(*statistics)
