"""Hosts for surgery: small, with statistics and weights of no special value, in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import saccade
from attention.builders import maps
from saccade.nets import CifarResNet

IMAGES = (2, 3, 40, 32)
OPTIONS: dict[str, dict[str, Any]] = {
    # Several hidden units each: a single one may be dead, as in the papers' own networks of this width.
    "se": {"reduction": 2},
    "sem": {"reduction": 2},
    "gam": {"reduction": 4},
    "aaconv": {},
}
PLACES = {"se": "*.bn2", "sem": "*.bn2", "gam": "*.bn2", "aaconv": "layer3.*.conv1"}


def images(seed: int = 3) -> Tensor:
    return maps(*IMAGES, seed=seed)


def settle(model: nn.Module) -> nn.Module:
    """Batch norms as after training: no mean of 0, no variance or weight of 1."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 1.5),
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.2, 0.2),
                ):
                    tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return model.eval()


def cifar() -> nn.Module:
    return settle(CifarResNet(8, widths=(8, 16, 32)))


def torchvision_resnet() -> nn.Module:
    return settle(torchvision.models.resnet18(num_classes=10))


HOSTS: dict[str, Callable[[], nn.Module]] = {"cifar": cifar, "torchvision": torchvision_resnet}


def augmented(host: nn.Module, attention: str, start: str = "identity", **options: Any) -> nn.Module:
    """The host with a mechanism at its usual place, of the size of :func:`images`."""
    options = OPTIONS[attention] | options
    return saccade.augment(
        host, attention, at=PLACES[attention], options=options, start=start, example_input=torch.zeros(IMAGES)
    )


def train(model: nn.Module, steps: int = 3, lr: float = 0.5) -> nn.Module:
    """A few steps of SGD on noise, in train mode; back in eval mode after."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    model.train()
    for step in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(images(seed=step)), torch.tensor([step % 10, 7])).backward()
        optimiser.step()
    return model.eval()


def set_alpha(model: nn.Module, value: float) -> None:
    """Blend attention in by a factor at every site of an identity start."""
    alphas = [parameter for name, parameter in model.named_parameters() if name.endswith(".alpha")]
    assert alphas, "no identity start in this model"
    with torch.no_grad():
        for alpha in alphas:
            alpha.fill_(value)
