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
from saccade.surgery import Sites

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


C, H, W = 8, 12, 10  # all different, so that no axis passes for another


def conv(channels: int = C, out: int = C, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2)


class Stemmed(nn.Module):
    """A stem, then the block in question."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block = conv(3), block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


def sites_of(block: nn.Module) -> Sites:
    return saccade.find_sites(Stemmed(block), torch.zeros(1, 3, H, W))


def residuals(block: nn.Module) -> list[str]:
    """Paths of the residual sites of a block, below it."""
    return [site.path.removeprefix("block.") for site in sites_of(block) if site.kind == "residual"]


class Block(nn.Module):
    """Two convolutions and a shortcut; the cases below differ in how both are combined."""

    def __init__(self, stride: int = 1, out: int = C) -> None:
        super().__init__()
        self.c1, self.bn1 = conv(C, out, stride=stride), nn.BatchNorm2d(out)
        self.c2, self.bn2 = conv(out, out), nn.BatchNorm2d(out)

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.c2(F.relu(self.bn1(self.c1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + x)


class Ended(Block):
    """A branch with one thing more at its end."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return x + self.end(self.branch(x))


class Sum(nn.Module):
    """The sum of what some modules make of one map."""

    def __init__(self, *terms: nn.Module) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = [term(x) for term in self.terms]
        for each in rest:
            first = first + each
        return first


def two_convs() -> nn.Sequential:
    return nn.Sequential(conv(), nn.ReLU(), conv())
