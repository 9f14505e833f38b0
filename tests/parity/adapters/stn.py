"""Spatial transformers: PyTorch's tutorial, and grids and samplers whose transform is a parameter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from parity.adapted import Adapted, Shapes
from saccade.attention.stn import SpatialTransformer, base_grid, transform_grid, warp


class TutorialLocalization(nn.Module):
    """The tutorial's localisation network, for maps of 28 x 28."""

    def __init__(self) -> None:
        super().__init__()
        pooled = (nn.MaxPool2d(2, stride=2), nn.ReLU())
        self.localization = nn.Sequential(nn.Conv2d(1, 8, 7), *pooled, nn.Conv2d(8, 10, 5), *pooled)
        self.fc_loc = nn.Sequential(nn.Linear(90, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_loc(self.localization(x).flatten(1))


class FixedTransform(nn.Module):
    """A map warped by a transform that is a parameter."""

    def __init__(
        self, maps: int, grid: Callable[[Tensor, Tensor], Tensor], align_corners: bool, padding_mode: str
    ) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(maps, 2, 3))
        self.grid, self.align_corners, self.padding_mode = grid, align_corners, padding_mode

    def forward(self, x: Tensor) -> Tensor:
        grid = self.grid(self.theta, x)
        return warp(x, grid, align_corners=self.align_corners, padding_mode=self.padding_mode)


def of_tutorial(*, align_corners: bool = False) -> Adapted:
    module = SpatialTransformer(1, localization=TutorialLocalization(), align_corners=align_corners)
    names = {name: f"localization.{name}" for name, _ in module.localization.named_parameters()}
    return Adapted(module, names, aux={"theta": module.theta})


def of_torch(
    *, out_size: list[int], align_corners: bool = False, padding_mode: str = "zeros", shapes: Shapes
) -> Adapted:
    height, width = out_size

    def grid(theta: Tensor, x: Tensor) -> Tensor:
        return transform_grid(theta, base_grid(height, width, x, align_corners=align_corners))

    return Adapted(FixedTransform(shapes["input"][0], grid, align_corners, padding_mode), {"theta": "theta"})


def of_fxia22(*, out_size: list[int], shapes: Shapes) -> Adapted:
    """Rows and columns in that order, and a grid of its own that never reaches 1."""

    def grid_yx(theta: Tensor, x: Tensor) -> Tensor:
        rows, columns = (torch.arange(size, dtype=x.dtype) * (2 / size) - 1 for size in out_size)
        return transform_grid(theta, torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1))

    maps = shapes["input"][0]
    module = FixedTransform(maps, lambda theta, x: grid_yx(theta, x).flip(-1), align_corners=True, padding_mode="zeros")
    return Adapted(module, {"theta": "theta"}, aux={"grid_yx": lambda x: grid_yx(module.theta, x)})


ADAPTERS = {
    (
        "stn",
        "pytorch/tutorials",
        "intermediate_source/spatial_transformer_tutorial.py@0023ff030645b36c18d4ac09348c194512d921a0",
    ): of_tutorial,
    ("stn", "torch", "torch.nn.functional.affine_grid + grid_sample"): of_torch,
    (
        "stn",
        "fxia22/stn.pytorch",
        "script/modules/gridgen.py (AffineGridGenV2) + script/src/my_lib.c (BilinearSamplerBHWD)",
    ): of_fxia22,
}
