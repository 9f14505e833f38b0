"""Sums of two maps that only look like residual junctions: one small block for each."""

# B batch, C channels, H W the map

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade
from surgery.hosts import Block, C, Ended, H, Sum, W, conv, residuals, sites_of, two_convs


def junctions(block: nn.Module) -> list[str]:
    """The residual sites of a block, in which every junction has one."""
    assert len(sites_of(block).notes) == 1
    return residuals(block)


@pytest.mark.parametrize(
    "terms",
    [
        lambda: [conv(), conv(kernel=1)],
        lambda: [two_convs(), two_convs()],
        lambda: [conv(), conv(kernel=1), nn.BatchNorm2d(C)],
        lambda: [conv(), conv(kernel=1), nn.Identity()],
        lambda: [conv(), conv(), conv(), nn.Identity()],
        lambda: [two_convs(), conv(), nn.Identity()],
        lambda: [conv(), nn.BatchNorm2d(C)],
        lambda: [conv(), nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.ReLU(), nn.Tanh(), nn.Sigmoid())],
        lambda: [nn.ReLU(), nn.Sigmoid()],
        lambda: [nn.Sequential(two_convs(), conv()), two_convs()],
    ],
    ids=[
        "tie",
        "tie-of-two",
        "repvgg",
        "three",
        "mobileone",
        "with-a-projection",
        "normalised-identity",
        "long-shortcut",
        "no-filters",
        "two-convolutions",
    ],
)
def test_ties_sums_of_many_and_blocks_to_be_merged_are_no_junctions(terms: Callable[[], list[nn.Module]]) -> None:
    found = sites_of(Sum(*terms()))
    assert "residual" not in found.counts()
    assert len(found.notes) == 1


class GlobalResponse(nn.Module):
    """ConvNeXt V2's normalisation: a sum with a shortcut, without filters."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(C, 1, 1)), nn.Parameter(torch.zeros(C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        norms = x.norm(dim=(2, 3), keepdim=True)
        return x + self.gamma * (x * (norms / norms.mean(1, keepdim=True))) + self.beta


def test_the_sum_of_a_global_response_is_no_junction() -> None:
    assert junctions(GlobalResponse()) == []
    assert junctions(Ended(GlobalResponse())) == ["end"]


class Logits(nn.Module):
    """Attention among positions of a map, its logits the sum of contents' and of places': (B, N, H W, H W)."""

    def __init__(self, *, mixed: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.place = (conv(kernel=1) for _ in range(4))
        self.mix = nn.Conv2d(2, 2, 1) if mixed else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, r = (each(x).reshape(len(x), 2, C // 2, -1) for each in (self.q, self.k, self.v, self.place))
        logits = (q.transpose(2, 3) @ k) * 0.5 + r.transpose(2, 3) @ q
        if self.mix is not None:
            logits = (logits + self.mix(logits)) * 0.7
        return x + (v @ logits.softmax(-1).transpose(2, 3)).reshape(x.shape)


@pytest.mark.parametrize("mixed", [False, True])
def test_logits_of_attention_are_no_junction(mixed: bool) -> None:
    found = sites_of(Logits(mixed=mixed))
    assert "residual" not in found.counts()
    # The other sum is one, and ends in a product.
    assert len(found.notes) == 2
    assert found.notes[1].startswith("1 residual additions without a site")
    assert residuals(nn.Sequential(Logits(mixed=mixed), Ended(Logits(mixed=mixed)))) == ["1.end"]


class Pyramid(nn.Module):
    """A feature pyramid's top-down sum."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.top, self.side, self.out = conv(stride=2), conv(kernel=1), conv(kernel=1), conv()

    def forward(self, x: Tensor) -> Tensor:
        top = F.interpolate(self.top(self.down(x)), x.shape[2:])
        return self.out(self.side(x) + top)


class UShaped(nn.Module):
    """An encoder and a decoder with a sum across."""

    def __init__(self, up: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.inside, self.down, self.deep, self.up, self.last = Block(), conv(stride=2), conv(), up, last

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        return x + self.last(self.up(self.deep(self.down(x))))


@pytest.mark.parametrize(
    ("up", "last"),
    [
        (lambda: nn.Upsample(scale_factor=2), nn.Identity),
        (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), conv),
        (lambda: nn.ConvTranspose2d(C, C, 2, 2), nn.Identity),
        (lambda: nn.ConvTranspose2d(C, C, 2, 2), conv),
        (lambda: nn.Sequential(conv(C, 4 * C), nn.PixelShuffle(2)), nn.Identity),
    ],
    ids=["upsampled", "upsampled-then-convolved", "transposed", "transposed-then-convolved", "shuffled"],
)
def test_a_decoders_sums_are_no_junctions(up: Callable[[], nn.Module], last: Callable[[], nn.Module]) -> None:
    network = saccade.find_sites(UShaped(up(), last()), torch.zeros(1, C, H, W), at="residual")
    assert [site.path for site in network] == ["inside.bn2"]
    # The same within another network.
    assert junctions(UShaped(up(), last())) == ["inside.bn2"]


def test_a_pyramids_sum_is_no_junction() -> None:
    assert junctions(Pyramid()) == []


class Cell(nn.Module):
    """One of the combinations of a cell of NASNet: a sum with a pooled map, that is then one part of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.convs, self.pool = two_convs(), nn.AvgPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.convs(x) + self.pool(x), x), 1)


def test_the_combinations_of_a_cell_are_no_junctions() -> None:
    assert junctions(Cell()) == []


class Res2(nn.Module):
    """Res2Net's block: slices of one map that are added to one another, within a true junction."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.bn1, self.c3, self.bn3 = conv(kernel=1), nn.BatchNorm2d(C), conv(kernel=1), nn.BatchNorm2d(C)
        self.convs = nn.ModuleList([conv(C // 4, C // 4) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        slices = torch.split(F.relu(self.bn1(self.c1(x))), C // 4, 1)
        done, last = [], None
        for part, each in zip(slices, self.convs, strict=False):
            last = F.relu(each(part if last is None else last + part))
            done.append(last)
        return F.relu(self.bn3(self.c3(torch.cat((*done, slices[3]), 1))) + x)


def test_sums_of_slices_of_one_map_are_no_junctions() -> None:
    assert junctions(Res2()) == ["bn3"]


class Places(nn.Module):
    """A sum with what does not depend on the images, and one of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.zeros(1, C, H, W))
        self.conv, self.down = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.places + self.down(self.places)


class Streams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = two_convs(), conv()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.first(x) + self.second(y)


def test_a_sum_with_what_the_branch_does_not_come_from_is_no_junction() -> None:
    assert junctions(Places()) == []
    x = torch.zeros(1, C, H, W)
    assert saccade.find_sites(Streams(), (x, x)).counts() == {"conv": 3, "input": 1}


class Joined(Block):
    """A branch that meets its shortcut in another way than by an addition."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.branch(x))


@pytest.mark.parametrize(
    ("join", "op"),
    [
        (lambda x, y: torch.stack([x, y]).sum(0), "stack"),
        (lambda x, y: torch.stack([x, y], 1).mean(1), "stack"),
        (lambda x, y: torch.lerp(x, y, 0.5), "lerp"),
        (lambda x, y: torch.addcmul(x, y, torch.full((), 0.5)), "addcmul"),
        (lambda x, y: x - y, "sub"),
        (lambda x, y: y - x, "sub"),
    ],
    ids=["stack-sum", "stack-mean", "lerp", "addcmul", "minus", "minus-identity"],
)
def test_a_branch_that_is_joined_by_another_operation_is_told(
    join: Callable[[Tensor, Tensor], Tensor], op: str
) -> None:
    found = sites_of(Joined(join))
    assert "residual" not in found.counts()
    assert found.notes[1:] == (
        f"1 residual branches without a site: aten.{op} joins them with the identity, and only additions are read.",
    )


@pytest.mark.parametrize(
    "join",
    [
        lambda x, y: torch.cat([x, y], 1),
        lambda x, y: y * x,
        lambda x, y: x - x.mean((2, 3), keepdim=True),
        lambda x, y: torch.stack([x, y], 1).flatten(1, 2),
    ],
    ids=["cat", "product", "centred", "stacked"],
)
def test_what_joins_no_branch_to_its_identity_is_not_told(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert len(sites_of(Joined(join)).notes) == 1
