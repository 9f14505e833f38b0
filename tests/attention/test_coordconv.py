"""CoordConv against its equations in plain numpy, and as the convolution whose place it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import saccade
from attention.builders import build, maps, randomise
from saccade.attention._coordinates import axis_coordinates
from saccade.attention.coordconv import CoordConv2d, add_coordinates, map_coordinates
from saccade.errors import UsageError


def coordinate(index: int, size: int) -> float:
    return 0.0 if size == 1 else index / (size - 1) * 2 - 1


def with_coordinates(sample: np.ndarray, order: str, radius: bool, centre: float) -> np.ndarray:
    """A map (C, H, W) and its coordinates, one pixel at a time."""
    channels, height, width = sample.shape
    out = np.empty((channels + 2 + radius, height, width))
    for i, j in np.ndindex(height, width):
        x, y = coordinate(j, width), coordinate(i, height)
        pixel = [*sample[:, i, j], *((x, y) if order == "xy" else (y, x))]
        out[:, i, j] = [*pixel, math.hypot(x - centre, y - centre)] if radius else pixel
    return out


def convolve(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | float, stride: int, padding: int, dilation: int
) -> np.ndarray:
    """A convolution with zeros around the map, one output value at a time."""
    kernel = weight.shape[-1]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    reach = dilation * (kernel - 1) + 1
    rows, columns = ((size - reach) // stride + 1 for size in x.shape[1:])
    out = np.empty((len(weight), rows, columns))
    for o, i, j in np.ndindex(*out.shape):
        top, left = i * stride, j * stride
        out[o, i, j] = (weight[o] * x[:, top : top + reach : dilation, left : left + reach : dilation]).sum()
    return out + np.reshape(bias, (-1, 1, 1))


@pytest.mark.parametrize("size", [(7, 5), (5, 7), (6, 6), (1, 4), (4, 1), (1, 1)], ids=str)
@pytest.mark.parametrize(("order", "radius", "centre"), [("xy", False, 0.0), ("yx", True, 0.5), ("xy", True, 0.0)])
def test_coordinates_equal_the_formula(size: tuple[int, int], order: str, radius: bool, centre: float) -> None:
    x = maps(2, 3, *size, dtype=torch.float64)
    expected = np.stack([with_coordinates(sample, order, radius, centre) for sample in x.numpy()])
    actual = add_coordinates(x, order=order, radius=radius, centre=centre)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "bias"), [(1, None, 1, True), (2, 1, 1, False), (1, 0, 1, True), (2, 3, 2, True)]
)
@pytest.mark.parametrize("options", [{}, {"radius": True, "order": "yx", "centre": 0.5}], ids=["paper", "ports"])
def test_equals_the_papers_equations(
    options: dict, stride: int, padding: int | None, dilation: int, bias: bool
) -> None:
    module = CoordConv2d(3, 4, 3, stride, padding, dilation=dilation, bias=bias, **options)
    module, x = randomise(module).double(), maps(2, 3, 8, 7, dtype=torch.float64)
    weight = torch.cat((module.conv.weight, module.coordinates.weight), dim=1).detach().numpy()
    shift = module.conv.bias.detach().numpy() if bias else 0.0
    margin = dilation if padding is None else padding
    settings = {"order": "xy", "radius": False, "centre": 0.0} | options
    expected = [
        convolve(with_coordinates(sample, **settings), weight, shift, stride, margin, dilation) for sample in x.numpy()
    ]
    np.testing.assert_allclose(module(x).detach().numpy(), np.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3, 8, 33])
def test_an_axis_goes_from_edge_to_edge_and_mirrors(size: int) -> None:
    centres = axis_coordinates(size, torch.empty(0))
    edges = axis_coordinates(size, torch.empty(0), align_corners=False)
    assert (centres[0], centres[-1]) == (-1, 1)
    assert edges[0].item() == pytest.approx(-1 + 1 / size)
    for axis in (centres, edges):
        assert torch.equal(axis.flip(0), -axis)
        torch.testing.assert_close(axis.diff(), axis.diff()[:1].expand(size - 1))


def test_coordinates_of_a_low_precision_map_are_rounded_once() -> None:
    x = maps(1, 1, 1, 200)
    expected = map_coordinates(x, radius=True).bfloat16()
    assert torch.equal(map_coordinates(x.bfloat16(), radius=True), expected)


def test_an_even_map_is_seen_differently_at_every_place() -> None:
    module = build("coordconv", 8, radius=True)
    out = module(torch.ones(1, 8, 9, 9))[0, :, 2:-2, 2:-2].flatten(1)
    distances = (out[:, :, None] - out[:, None, :]).norm(dim=0) + 1e9 * torch.eye(25)
    assert distances.min() > 1e-2


def test_has_the_parameters_of_a_convolution_with_two_or_three_more_channels() -> None:
    for radius in (False, True):
        module = CoordConv2d(16, 24, 3, radius=radius)
        assert sum(p.numel() for p in module.parameters()) == (16 + 2 + radius) * 24 * 9 + 24


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("radius", [True, False])
def test_starts_as_the_convolution_whose_place_it_takes(bias: bool, radius: bool) -> None:
    conv = randomise(nn.Conv2d(6, 10, (3, 5), stride=2, padding=(1, 2), dilation=(1, 2), bias=bias))
    module, x = CoordConv2d.from_conv(conv, radius=radius), maps(2, 6, 12, 13)
    torch.testing.assert_close(module(x), conv(x))
    assert not module.conv.weight[:, 6:].any()
    assert torch.equal(module.conv.weight[:, :6], conv.weight)
    assert module.conv.weight.requires_grad


def test_filters_that_are_frozen_stay_frozen_and_are_not_shared_while_coordinates_learn() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    module = CoordConv2d.from_conv(conv)
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["coordinates.weight"]
    before = conv.weight.clone()
    module.conv.weight.data.add_(1)
    assert torch.equal(conv.weight, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, r"`in_channels` \(=0\) must be an integer of at least 1"),
        ({"out_channels": 1.5}, r"`out_channels` \(=1.5\) must be an integer of at least 1"),
        ({"kernel_size": (3, 3, 3)}, r"`kernel_size` \(=\(3, 3, 3\)\) must be one integer or two"),
        ({"stride": 0}, r"`stride` \(=0\) must be an integer of at least 1"),
        ({"padding": -1}, r"`padding` \(=-1\) must be an integer of at least 0"),
        ({"dilation": 0}, r"`dilation` \(=0\) must be an integer of at least 1"),
        ({"radius": 1}, r"`radius` \(=1\) must be True or False"),
        ({"bias": "no"}, r"`bias` \(='no'\) must be True or False"),
        ({"order": "xz"}, r"`order` \(='xz'\) must be one of 'xy', 'yx'"),
        ({"centre": 2}, r"`centre` \(=2\) must be a number from -1 to 1"),
    ],
)
def test_wrong_arguments_are_errors(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CoordConv2d(**({"in_channels": 4, "out_channels": 4, "kernel_size": 3} | arguments))


def test_the_channels_of_the_map_do_not_count_the_coordinates() -> None:
    with pytest.raises(UsageError, match="coordconv was built for 4 channels; got a map with 6"):
        CoordConv2d(4, 4, 3)(maps(1, 6, 5, 5))


def test_centre_is_zero_by_default() -> None:
    module, x = randomise(CoordConv2d(2, 3, 1, radius=True)), maps(1, 2, 5, 4)
    planes = map_coordinates(x, radius=True, centre=0.0)
    torch.testing.assert_close(module.coordinates(x), torch.nn.functional.conv2d(planes, module.coordinates.weight))


def test_starts_as_one_convolution_over_all_its_input_channels() -> None:
    torch.manual_seed(0)
    whole = nn.Conv2d(6, 4, 3, padding=1)
    torch.manual_seed(0)
    module, x = CoordConv2d(4, 4, 3), maps(2, 4, 5, 6)
    torch.testing.assert_close(module(x), whole(add_coordinates(x)))


def test_its_identity_start_learns_without_a_blend() -> None:
    host = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    new, x = saccade.augment(host, "coordconv", at="0", example_input=torch.zeros(2, 3, 6, 5)), maps(2, 3, 6, 5)
    assert torch.equal(new(x), host(x))
    added = {name for name, _ in new.named_parameters()} - {name for name, _ in host.named_parameters()}
    assert added == {"0.saccade.coordconv.attention.weight"}
    new(x).square().sum().backward()
    assert all(new.get_parameter(name).grad.abs().max() > 0 for name in added)
