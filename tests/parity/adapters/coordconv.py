"""CoordConv: the authors' coordinates alone, and two ports of the whole layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from parity.adapted import Adapted, Fault, Shapes, Slot, Through
from saccade.attention.coordconv import CoordConv2d, add_coordinates
from saccade.errors import UsageError


def of_uber(*, x_dim: int, y_dim: int, with_r: bool = False) -> Adapted:
    """The input with its coordinates, without a convolution."""

    def run(_module: nn.Module, x: Tensor) -> Tensor:
        _check_size(x, x_dim, y_dim)
        return add_coordinates(x, radius=with_r)

    return Adapted(Through(nn.Identity(), run), {})


def of_port(
    *,
    out_channels: int,
    kernel_size: int,
    in_channels: int | None = None,
    padding: int = 0,
    with_r: bool = False,
    x_dim: int | None = None,
    y_dim: int | None = None,
    shapes: Shapes,
) -> Adapted:
    """Both ports; the layer for one size of maps (``x_dim``, ``y_dim``) computes the same and gives no in_channels."""
    given, size = shapes["input"][1], shapes["input"][2:]
    if in_channels not in (None, given) or x_dim not in (None, size[0]) or y_dim not in (None, size[1]):
        raise UsageError(
            f"`in_channels`, `x_dim`, `y_dim` (={in_channels}, {x_dim}, {y_dim}) must be those of the input"
        )
    module = CoordConv2d(given, out_channels, kernel_size, padding=padding, radius=with_r, order="yx", centre=0.5)
    parts = (
        Slot("conv.weight", permute=lambda weight: weight[:, :given]),
        Slot("coordinates.weight", permute=lambda weight: weight[:, given:]),
    )
    return Adapted(module, {"conv.weight": parts, "conv.bias": "conv.bias"})


def of_walsvid(
    *, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0, with_r: bool = False, shapes: Shapes
) -> Adapted:
    return of_port(
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=kernel_size,
        padding=padding,
        with_r=with_r,
        shapes=shapes,
    )


def _check_size(x: Tensor, x_dim: int, y_dim: int) -> None:
    if x.shape[2:] != (x_dim, y_dim):
        raise UsageError(f"`x_dim`, `y_dim` (={x_dim}, {y_dim}) must be the size of the map, {tuple(x.shape[2:])}")


def swapped(through: Through, x: Tensor) -> Tensor:
    """Columns divided by the number of rows less one, rows by that of columns less one."""
    height, width = x.shape[2:]
    xx = (2 * torch.arange(width) / (height - 1) - 1).expand(height, width)
    yy = (2 * torch.arange(height) / (width - 1) - 1)[:, None].expand(height, width)
    planes = torch.stack((xx, yy, (xx.square() + yy.square()).sqrt()))[: through(x).shape[1] - x.shape[1]]
    return torch.cat((x, planes.expand(len(x), -1, -1, -1)), dim=1)


UBER = ("coordconv", "uber-research/CoordConv", "CoordConv.py AddCoords")

ADAPTERS = {
    UBER: of_uber,
    ("coordconv", "mkocabas/CoordConv-pytorch", "CoordConv.py"): of_port,
    ("coordconv", "walsvid/CoordConv", "coordconv.py"): of_walsvid,
}
FAULTS = {
    UBER: Fault(
        "on a map that is not square the columns' coordinates are divided by the rows' range, and the other way round",
        # On the stored 7 x 5 map the rows' coordinate reaches 2 instead of 1; the squarer a map, the less.
        distance=0.01,
        reproduce=swapped,
    ),
}
