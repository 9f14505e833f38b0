"""What is a residual junction, and which module ends its branch: one small block for every rule."""

# B batch, C channels, H W the map

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from surgery.hosts import Block, C, Ended, H, Sum, W, conv, residuals, sites_of, two_convs


class Swapped(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.add(x, self.branch(x)))


class InPlace(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y += x
        return F.relu_(y)


class Scaled(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) * 0.2 / 1.5


class ByAlpha(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.branch(x), alpha=0.5)


class ParameterScaled(Block):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((C,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x).mul(self.gamma.reshape(1, -1, 1, 1))


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


class ModuleScaled(Block):
    def __init__(self) -> None:
        super().__init__()
        self.scale = Gain()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.branch(x))


class SkipScaled(Block):
    """The weights of a sum on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.a) * x + self.a * self.branch(x)


@pytest.mark.parametrize("make", [Block, Swapped, InPlace, Scaled, ByAlpha, ParameterScaled, ModuleScaled, SkipScaled])
def test_an_identity_beside_a_branch_whatever_scales_it(make: Callable[[], nn.Module]) -> None:
    assert residuals(make()) == ["bn2"]


class Projected(Block):
    def __init__(self, *shortcut: nn.Module, out: int = 2 * C) -> None:
        super().__init__(stride=2, out=out)
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


@pytest.mark.parametrize(
    "shortcut",
    [
        lambda: [conv(C, 2 * C, 1, 2)],
        lambda: [conv(C, 2 * C, 1, 2), nn.BatchNorm2d(2 * C)],
        lambda: [nn.AvgPool2d(2, 2), conv(C, 2 * C, 1), nn.BatchNorm2d(2 * C)],
    ],
    ids=["convolution", "with-a-norm", "pooled-before"],
)
def test_a_projection_by_one_convolution_is_a_shortcut(shortcut: Callable[[], list[nn.Module]]) -> None:
    assert residuals(Projected(*shortcut())) == ["bn2"]


def test_a_pool_is_a_shortcut() -> None:
    assert residuals(Projected(nn.MaxPool2d(2), out=C)) == ["bn2"]


class PaddedSlices(Block):
    """Option A of the CIFAR networks."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, C // 2, C // 2)))


class PaddedPool(Block):
    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 2)
        return F.relu(self.branch(x) + torch.cat((pooled, torch.zeros_like(pooled)), 1))


@pytest.mark.parametrize("make", [PaddedSlices, PaddedPool])
def test_a_pooled_and_padded_map_is_a_shortcut(make: type[Block]) -> None:
    assert residuals(make(stride=2, out=2 * C)) == ["bn2"]


class ChannelsLast(nn.Module):
    """ConvNeXt's block, with linear layers over (B, H, W, C)."""

    def __init__(self, back: nn.Module | None = None, *, add_last: bool = False) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(C, C, 7, padding=3, groups=C), nn.LayerNorm(C)
        self.fc1, self.fc2 = nn.Linear(C, 3 * C), nn.Linear(3 * C, C)
        self.gamma = nn.Parameter(torch.ones(C))
        self.back, self.add_last = back, add_last

    def forward(self, x: Tensor) -> Tensor:
        y = self.gamma * self.fc2(F.gelu(self.fc1(self.norm(self.dw(x).permute(0, 2, 3, 1)))))
        if self.add_last:
            return (x.permute(0, 2, 3, 1) + y).permute(0, 3, 1, 2)
        return x + (y.permute(0, 3, 1, 2) if self.back is None else self.back(y))


class Permute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("block", "path", "layout"),
    [
        (ChannelsLast(), "fc2", "nhwc"),
        (ChannelsLast(add_last=True), "fc2", "nhwc"),
        (ChannelsLast(Permute()), "back", "nchw"),
    ],
    ids=["added-as-nchw", "added-as-nhwc", "permuted-by-a-module"],
)
def test_the_site_of_a_channels_last_branch_is_its_last_map(block: nn.Module, path: str, layout: str) -> None:
    (site,) = [site for site in sites_of(block) if site.kind == "residual"]
    assert (site.path, site.layout) == (f"block.{path}", layout)
    assert (site.channels, site.height, site.width) == (C, H, W)


class Windows(nn.Module):
    """Attention within windows of (B, H, W, C), whose last step puts the windows together again."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        windows = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(windows).chunk(3, -1)
        y = self.proj(torch.softmax(q @ k.transpose(1, 2), -1) @ v)
        return y.reshape(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)


class WithWindows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(C), Windows()

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return (x + self.attn(self.norm(x))).permute(0, 3, 1, 2)


def test_windows_that_were_put_together_again_are_a_map() -> None:
    (site,) = [site for site in sites_of(WithWindows()) if site.kind == "residual"]
    assert (site.path, site.layout, site.channels, site.size) == ("block.attn", "nhwc", C, (H, W))


class Partial(Block):
    """ReXNet's: the shortcut reaches the first channels alone."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__(out=C + 4)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.in_place:
            y[:, :C] += x
            return y
        return torch.cat((y[:, :C] + x, y[:, C:]), 1)


@pytest.mark.parametrize("in_place", [False, True], ids=["cat", "in-place"])
def test_a_shortcut_to_some_of_the_channels_ends_the_whole_branch(in_place: bool) -> None:
    (site,) = [site for site in sites_of(Partial(in_place=in_place)) if site.kind == "residual"]
    assert (site.path, site.channels) == ("block.bn2", C + 4)


@pytest.mark.parametrize(
    "make", [lambda: nn.Dropout(0.1), lambda: StochasticDepth(0.1, "row"), lambda: timm.layers.DropPath(0.1)],
    ids=["dropout", "stochastic-depth", "drop-path"],
)  # fmt: skip
def test_attention_goes_before_a_drop_path(make: Callable[[], nn.Module]) -> None:
    assert residuals(Ended(make())) == ["bn2"]
    assert residuals(Ended(nn.Sequential(make(), nn.Identity()))) == ["bn2"]


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = conv(kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


def test_a_branch_may_end_in_a_module_of_many_steps() -> None:
    assert residuals(Ended(Squeeze())) == ["end"]
    assert residuals(Ended(nn.ReLU())) == ["end"]
    assert residuals(Ended(nn.Sequential(Squeeze(), nn.Sequential(nn.ReLU())))) == ["end.1.0"]


@pytest.mark.parametrize(
    ("end", "op"),
    [(F.relu, "relu"), (lambda y: y * y.mean((2, 3), keepdim=True).sigmoid(), "mul")],
    ids=["function", "gate"],
)
def test_a_branch_that_no_module_ends_is_told(end: Callable[[Tensor], Tensor], op: str) -> None:
    found = sites_of(Ended(end))
    assert "residual" not in found.counts()
    assert found.notes[1:] == (
        f"1 residual additions without a site: no module gives the branch's output (aten.{op}).",
    )


class FunctionalThenDrop(Ended):
    def __init__(self) -> None:
        super().__init__(F.relu)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.end(self.branch(x)))


def test_where_no_module_ends_a_branch_an_unused_drop_path_carries_the_edit() -> None:
    assert residuals(FunctionalThenDrop()) == ["drop"]


class ReadTwice(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return torch.cat((x + y, y), 1)


def test_a_branch_that_is_read_elsewhere_is_told() -> None:
    found = sites_of(ReadTwice())
    assert "residual" not in found.counts()
    assert found.notes[1:] == ("1 residual additions without a site: the branch's output is read elsewhere, too.",)


def test_a_convolution_beside_two_is_a_projection() -> None:
    assert residuals(Sum(two_convs(), conv())) == ["terms.0.2"]


class Around(nn.Module):
    """A shortcut around whatever is given."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def test_a_residual_of_residuals_has_all_of_them() -> None:
    assert residuals(Around(Swapped(), Swapped(), conv())) == ["body.0.bn2", "body.1.bn2", "body.2"]
    # A block that ends in a sum gives the outer branch as a module of its own.
    assert residuals(Around(Swapped(), Swapped())) == ["body.0.bn2", "body.1", "body.1.bn2"]
    assert residuals(Around(Around(Around(conv())))) == ["body.0", "body.0.body.0", "body.0.body.0.body.0"]


@pytest.mark.parametrize(
    "up", [lambda: nn.Upsample(scale_factor=2), lambda: nn.ConvTranspose2d(C, C, 2, 2)], ids=["upsampled", "transposed"]
)
def test_a_branch_that_is_one_module_may_go_down_and_up_beside_an_identity(up: Callable[[], nn.Module]) -> None:
    assert residuals(Around(conv(stride=2), conv(), up())) == ["body.2"]
    assert residuals(Around(conv(stride=2), up(), conv())) == ["body.2"]


class Stacked(Block):
    """Two junctions in one forward, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.bn1(self.c1(x))
        return x + self.bn2(self.c2(x))


def test_two_junctions_in_a_row_are_two_sites() -> None:
    assert residuals(Stacked()) == ["bn1", "bn2"]
