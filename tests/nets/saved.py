"""What the tests of files share: a trained state, what a file says of itself, hosts with shared parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

import saccade
from attention.builders import maps
from surgery.hosts import settle

IMAGE = maps(1, 3, 64, 64)


def moved(model: nn.Module) -> nn.Module:
    """Every parameter and statistic as after some training."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in settle(model).parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def out(model: nn.Module, x: Tensor) -> Tensor:
    given = model.eval()(x)
    return given["out"] if isinstance(given, dict) else given


def described(path: Path) -> dict[str, Any]:
    with safe_open(str(path), framework="pt") as file:
        return json.loads(file.metadata()["saccade"])


def assert_same(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for value, expected in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert value.dtype is expected.dtype
        assert torch.equal(value, expected)
    assert saccade.plan_of(ours) == saccade.plan_of(theirs)
    assert torch.equal(out(ours, x), out(theirs, x))


def shared(host: nn.Module) -> nn.Module:
    host.layer1[1] = host.layer1[0]
    return host


def tied(host: nn.Module) -> nn.Module:
    host.layer1[1].conv1.weight = host.layer1[0].conv1.weight
    return host
