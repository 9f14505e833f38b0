"""A network as people write one for themselves: nothing of it is a class that a library knows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade
from saccade.errors import UsageError
from surgery.hosts import conv, settle

WIDTH = 16


class Lambda(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


class Wide(nn.Module):
    """A block of the network's own, with its sum inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"in": conv(WIDTH, 2 * WIDTH), "out": conv(2 * WIDTH, WIDTH)})
        self.norm = nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.layers["out"](F.relu(self.layers["in"](x))))
        return F.relu_(y.add_(x))


class OwnCnn(nn.Module):
    """Two inputs, modules in lists of lists and in a plain list, shared weights, sums and activations by function.

    ``mixers`` are in no list of PyTorch's: the network calls them through the plain list, and they are registered one
    by one, as people do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, WIDTH), nn.BatchNorm2d(WIDTH), Lambda(lambda x: x.clamp(min=0)))
        self.hints = nn.Sequential(conv(1, WIDTH, kernel=1), Lambda(halved))
        self.groups = nn.ModuleList(
            [
                nn.ModuleList([self.unit() for _ in range(2)]),
                nn.ModuleList([self.unit(), nn.Sequential(self.unit(), nn.Sequential(nn.BatchNorm2d(WIDTH)))]),
            ]
        )
        self.wide = nn.Sequential(Wide(), nn.Sequential(Wide()))
        self.mixers = [conv(WIDTH, WIDTH, kernel=1), conv(WIDTH, WIDTH, kernel=1)]
        for number, mixer in enumerate(self.mixers):
            self.add_module(f"mixer{number}", mixer)
        self.twin = conv(WIDTH, WIDTH)
        self.twin.weight = self.groups[0][0][0].weight
        self.last = conv(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    @staticmethod
    def unit() -> nn.Sequential:
        return nn.Sequential(conv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH), nn.ReLU(), conv(WIDTH, WIDTH))

    def forward(self, image: Tensor, hint: Tensor) -> Tensor:
        x = halved(self.stem(image))
        x = torch.add(x, self.hints(hint))
        for group, mixer in zip(self.groups, self.mixers, strict=True):
            for unit in group:
                x = F.relu(unit(x) + x)
            x = mixer(x)
            x = F.relu(F.max_pool2d(x, 2))
        x = self.wide(x)
        x = x + F.relu(self.twin(x))
        x += self.last(F.relu(x))
        return self.head(F.relu(x).mean((2, 3)))


def inputs(seed: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 32, 24, generator=generator), torch.randn(batch, 1, 32, 24, generator=generator)


def own() -> nn.Module:
    torch.manual_seed(5)
    return settle(OwnCnn())


PLACES = {
    "residual": [
        *("groups.0.0.3", "groups.0.1.3", "groups.1.0.3", "groups.1.1.1.0"),
        *("wide.0.norm", "wide.1.0.norm", "last"),
    ],
    "conv": [
        "stem.0",
        *(f"groups.{unit}.{n}" for unit in ("0.0", "0.1", "1.0", "1.1.0") for n in (0, 3)),
        *("wide.0.layers.in", "wide.0.layers.out", "wide.1.0.layers.in", "wide.1.0.layers.out", "twin", "last"),
    ],
    "pointwise": ["hints.0", "mixer0", "mixer1"],
    "norm": [
        *("stem.1", "groups.0.0.1", "groups.0.1.1", "groups.1.0.1", "groups.1.1.0.1", "groups.1.1.1.0"),
        *("wide.0.norm", "wide.1.0.norm"),
    ],
    "block": ["wide.0", "wide.1.0"],
    # Where the network itself sums, no module gives a map that all data passes.
    "stage": ["wide.1.0", "mixer0", "mixer1"],
    "input": ["stem.0"],
}


def test_its_sites() -> None:
    sites = saccade.find_sites(own(), inputs())
    assert {kind: [site.path for site in sites if site.kind == kind] for kind in sites.counts()} == PLACES
    assert sites.notes[1:] == ("1 residual additions without a site: no module gives the branch's output (aten.relu).",)


def moved(model: nn.Module, steps: int = 3) -> dict[str, bool]:
    """Whether each parameter is another after some steps of training."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    model.train()
    for step in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(*inputs(step, batch=4)), torch.tensor([step, 7, 3, 1])).backward()
        optimiser.step()
    model.eval()
    return {name: not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters()}


# Several hidden units each: a single one may be dead.
OPTIONS = {"se": {"reduction": 2}, "cbam": {"reduction": 2}, "aaconv": {"heads": 2}, "nonlocal": {}}


# Convolutions before a batch norm: in training it takes away whatever a bias adds, so that such a bias cannot learn.
BEFORE_A_NORM = (
    *("stem.0", "groups.0.0.0", "groups.0.1.0", "groups.1.0.0", "groups.1.1.0.0", "groups.1.1.0.3"),
    *("wide.0.layers.out", "wide.1.0.layers.out"),
)
KINDS = ("residual", "block", "stage", "conv")


@pytest.mark.parametrize(
    ("attention", "at"),
    [
        *((name, kind) for name in ("se", "cbam", "nonlocal") for kind in KINDS),
        ("aaconv", "conv"),
        ("aaconv", "mixer?"),
    ],
)
def test_attention_starts_as_the_network_learns_and_comes_off(attention: str, at: str) -> None:
    host = own()
    expected, state = host(*inputs()), copy.deepcopy(host.state_dict())
    model = saccade.augment(host, attention, at=at, options=OPTIONS[attention], example_input=inputs())
    assert len(saccade.plan_of(model)) >= 1
    assert torch.equal(model(*inputs()), expected)
    new = {name for name, _ in model.named_parameters()} - {name for name, _ in host.named_parameters()}
    assert new
    still = {name for name, changed in moved(model).items() if not changed}
    assert still <= {f"{path}.saccade.aaconv.attention.proj.bias" for path in BEFORE_A_NORM}
    assert not torch.equal(model(*inputs()), expected)
    trained = {name: value for name, value in model.state_dict().items() if name in state}
    stripped = saccade.strip(model)
    assert list(stripped.state_dict()) == list(state)
    assert all(torch.equal(value, trained[name]) for name, value in stripped.state_dict().items())
    assert stripped.twin.weight is stripped.groups[0][0][0].weight
    stripped.load_state_dict(state)
    assert torch.equal(stripped(*inputs()), expected)


def test_a_replaced_module_of_a_plain_list_is_refused_and_the_host_stays() -> None:
    host = own()
    text, expected = str(host), host(*inputs())
    with pytest.raises(UsageError, match=r"the host does not call 'mixer0' by its name; start='identity'"):
        saccade.augment(host, "aaconv", at="mixer0", start="paper", example_input=inputs(), inplace=True)
    assert str(host) == text
    assert torch.equal(host(*inputs()), expected)
    model = saccade.augment(host, "aaconv", at="mixer0", example_input=inputs())
    assert torch.equal(model(*inputs()), expected)
    assert moved(model)["mixer0.saccade.aaconv.alpha"]
