"""CoordConv: the authors' coordinates alone, and two ports of the whole layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from parity.adapted import Adapted, Fault, Through
from saccade.attention.coordconv import CoordConv2d, add_coordinates
from saccade.errors import UsageError

NAMES = {"conv.weight": "conv.weight", "conv.bias": "conv.bias"}


def of_uber(*, x_dim: int, y_dim: int, with_r: bool = False) -> Adapted:
    """The input with its coordinates, without a convolution."""

    def run(_module: nn.Module, x: Tensor) -> Tensor:
        _check_size(x, x_dim, y_dim)
        return add_coordinates(x, radius=with_r)

    return Adapted(Through(nn.Identity(), run), {})


def of_port(
    *, out_channels: int, kernel_size: int, in_channels: int = 8, padding: int = 0, with_r: bool = False
) -> Adapted:
    return Adapted(_port(in_channels, out_channels, kernel_size, padding, with_r), NAMES)


def of_mkocabas(
    *,
    out_channels: int,
    kernel_size: int,
    # The files for one size of maps do not give it; their maps have 8 channels.
    in_channels: int = 8,
    padding: int = 0,
    with_r: bool = False,
    x_dim: int | None = None,
    y_dim: int | None = None,
) -> Adapted:
    module = _port(in_channels, out_channels, kernel_size, padding, with_r)
    if x_dim is None and y_dim is None:
        return Adapted(module, NAMES)
    if x_dim is None or y_dim is None:
        raise UsageError(f"`x_dim` (={x_dim}) and `y_dim` (={y_dim}) must both be given, or neither")

    def run(module: CoordConv2d, x: Tensor) -> Tensor:
        _check_size(x, x_dim, y_dim)
        return module(x)

    return Adapted(Through(module, run), {theirs: f"module.{ours}" for theirs, ours in NAMES.items()})


def _port(in_channels: int, out_channels: int, kernel_size: int, padding: int, with_r: bool) -> CoordConv2d:
    return CoordConv2d(in_channels, out_channels, kernel_size, padding=padding, radius=with_r, order="yx", centre=0.5)


def _check_size(x: Tensor, x_dim: int, y_dim: int) -> None:
    if x.shape[2:] != (x_dim, y_dim):
        raise UsageError(f"`x_dim`, `y_dim` (={x_dim}, {y_dim}) must be the size of the map, {tuple(x.shape[2:])}")


def swapped(_module: nn.Module, x: Tensor) -> Tensor:
    """Columns divided by the number of rows less one, rows by that of columns less one."""
    height, width = x.shape[2:]
    xx = (2 * torch.arange(width) / (height - 1) - 1).expand(height, width)
    yy = (2 * torch.arange(height) / (width - 1) - 1)[:, None].expand(height, width)
    planes = torch.stack((xx, yy, (xx.square() + yy.square()).sqrt()))
    return torch.cat((x, planes.expand(len(x), -1, -1, -1)), dim=1)


UBER = ("coordconv", "uber-research/CoordConv", "CoordConv.py AddCoords")

ADAPTERS = {
    UBER: of_uber,
    ("coordconv", "mkocabas/CoordConv-pytorch", "CoordConv.py"): of_mkocabas,
    ("coordconv", "walsvid/CoordConv", "coordconv.py"): of_port,
}
FAULTS = {
    UBER: Fault(
        "on a map that is not square the columns' coordinates are divided by the rows' range, and the other way round",
        # In the corners of a 7 x 5 map the rows' coordinate reaches 2 instead of 1.
        distance=0.5,
        reproduce=swapped,
    ),
}
