"""CoordConv: a convolution that also sees where it is, by coordinates as further input channels."""

# B batch, C channels, H W the map

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saccade._checks import check_bool, check_choice, check_int, check_map, check_number
from saccade.attention._base import ConvLike, take_rows
from saccade.attention._card import Paper
from saccade.attention._coordinates import axis_coordinates
from saccade.attention._sampling import pair, same_padding

ORDERS = ("xy", "yx")

PAPER = Paper(
    title="An Intriguing Failing of Convolutional Neural Networks and the CoordConv Solution",
    authors="Rosanne Liu, Joel Lehman, Piero Molino, Felipe Petroski Such, Eric Frank, Alex Sergeev, Jason Yosinski",
    year=2018,
    venue="NeurIPS",
    arxiv="1807.03247",
    kind="conv",
    attends="spatial",
    equations=(
        "xx = 2 j / (W - 1) - 1 in column j, yy = 2 i / (H - 1) - 1 in row i",
        "rr = sqrt(xx^2 + yy^2), if asked for",
        "y = conv(concat(x, xx, yy[, rr]))",
    ),
    deviations=(
        (
            "The authors' code divides xx by H - 1 and yy by W - 1: on maps that are not square its coordinates leave "
            "[-1, 1]. Ours are those of the formula on every map."
        ),
        "Of one row, or one column, the coordinate is 0; the formula divides by zero.",
        (
            'Ports to PyTorch give the coordinate of the rows first, order="yx", and measure the radius from the point '
            "(0.5, 0.5), centre=0.5."
        ),
        "In a convolution's place it starts with that convolution's filters and with zeros for the coordinates.",
    ),
)


def map_coordinates(x: Tensor, *, order: str = "xy", radius: bool = False, centre: float = 0.0) -> Tensor:
    """The coordinates of every pixel of x (B, C, H, W) in [-1, 1]: (1, 2, H, W), with ``radius`` (1, 3, H, W)."""
    height, width = x.shape[-2:]
    xx = axis_coordinates(width, x)[None, :].expand(height, width)
    yy = axis_coordinates(height, x)[:, None].expand(height, width)
    planes = [xx, yy] if order == "xy" else [yy, xx]
    if radius:
        planes.append(((xx - centre).square() + (yy - centre).square()).sqrt())
    return torch.stack(planes)[None].to(x.dtype)


def add_coordinates(x: Tensor, *, order: str = "xy", radius: bool = False, centre: float = 0.0) -> Tensor:
    """x (B, C, H, W) with its coordinates as further channels, (B, C + 2, H, W), with ``radius`` (B, C + 3, H, W)."""
    coordinates = map_coordinates(x, order=order, radius=radius, centre=centre)
    return torch.cat((x, coordinates.expand(x.shape[0], -1, -1, -1)), dim=1)


class CoordinateFilters(nn.Conv2d):
    """The filters over the coordinates of a map, without a bias: (B, C, H, W) -> (1, out_channels, H', W')."""

    def __init__(self, *geometry: Any, order: str, centre: float) -> None:
        super().__init__(*geometry, bias=False)
        self.order, self.centre = order, centre

    def forward(self, input: Tensor) -> Tensor:
        radius = self.in_channels == 3
        planes = map_coordinates(input, order=self.order, radius=radius, centre=self.centre)
        return super().forward(planes)


class CoordConv2d(ConvLike):
    """CoordConv (Liu et al., NeurIPS 2018, arXiv 1807.03247, and the authors' code).

    ``y = conv(concat(x, xx, yy))``, computed as ``conv(x) + coordinates(xx, yy)``: xx grows from -1 to 1 along the
    columns, yy along the rows, and with ``radius`` a third channel is the distance from the map's centre.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias: as ``torch.nn.Conv2d``;
            ``padding=None`` keeps the size of odd kernels at stride 1.
        radius: whether the distance is a third coordinate.
        order: ``"xy"`` puts xx first, as the authors' code does, ``"yx"`` yy, as its ports do.
        centre: the distance is from the point (centre, centre); 0, the map's centre, in the authors' code, 0.5 in its
            ports.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H', W') with the convolution's H', W'.

    Raises:
        UsageError: sizes out of range; ``radius`` or ``bias`` that is not a bool; an unknown ``order``; a ``centre``
            outside [-1, 1]; a map with another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
        *,
        radius: bool = False,
        order: str = "xy",
        centre: float = 0.0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_int("in_channels", in_channels)
        check_int("out_channels", out_channels)
        check_bool("radius", radius)
        check_choice("order", order, ORDERS)
        check_number("centre", centre, low=-1, high=1)
        check_bool("bias", bias)
        kernel, spread = pair("kernel_size", kernel_size), pair("dilation", dilation)
        if padding is None:
            padding = same_padding(kernel, spread)
        self.in_channels, self.out_channels = in_channels, out_channels
        geometry = (kernel, pair("stride", stride), pair("padding", padding, at_least=0), spread)
        coordinates = 3 if radius else 2
        # One convolution in two parts, by its input channels: the map is not copied beside its coordinates.
        whole = nn.Conv2d(in_channels + coordinates, out_channels, *geometry, bias=bias)
        self.conv = nn.Conv2d(in_channels, out_channels, *geometry, bias=bias)
        self.coordinates = CoordinateFilters(coordinates, out_channels, *geometry, order=order, centre=centre)
        self.conv.weight.data.copy_(whole.weight.data[:, :in_channels])
        self.coordinates.weight.data.copy_(whole.weight.data[:, in_channels:])
        if self.conv.bias is not None and whole.bias is not None:
            self.conv.bias.data.copy_(whole.bias.data)

    def take_filters(self, conv: nn.Conv2d) -> None:
        """Start as a convolution: its filters for the map, which stay frozen if they are; zeros for the coordinates."""
        take_rows(self.conv.weight, conv.weight)
        if self.conv.bias is not None and conv.bias is not None:
            take_rows(self.conv.bias, conv.bias)
        nn.init.zeros_(self.coordinates.weight)

    @property
    def host_filters(self) -> int:
        return self.conv.out_channels

    @property
    def added(self) -> nn.Module:
        return self.coordinates

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.in_channels, "coordconv")
        return self.conv(x) + self.coordinates(x)
