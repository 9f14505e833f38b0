"""Networks without numbers, for tests of what they count."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

import saccade
from saccade.nets import Host


def sized(name: str, **options: object) -> nn.Module:
    """One of the papers' networks."""
    with torch.device("meta"):
        return saccade.create_model(name, **options)


def augmented(host: str, at: Mapping[str, str], side: int = 224) -> nn.Module:
    """A host with mechanisms at places, in their papers' form."""
    with torch.device("meta"):
        model = Host.parse(host).build()
        return saccade.augment(model, at=at, start="paper", example_input=torch.zeros(1, 3, side, side))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def millions(model: nn.Module, digits: int = 3) -> float:
    return round(count(model) / 1e6, digits)


def digits(number: float) -> int:
    """How many a figure has after its point."""
    return len(str(number).partition(".")[2])
