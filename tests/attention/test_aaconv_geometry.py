"""Where attention looks from: at the centres of the convolution's filters, whatever its stride, padding and kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.builders import maps, randomise
from saccade import AAConv2d
from saccade.errors import UsageError

GEOMETRIES: dict[str, dict[str, Any]] = {
    "3x3": {"kernel_size": 3},
    "1x1": {"kernel_size": 1},
    "1x1-stride2": {"kernel_size": 1, "stride": 2},
    "3x3-stride2": {"kernel_size": 3, "stride": 2},
    "3x3-stride3x1": {"kernel_size": 3, "stride": (3, 1)},
    "3x3-unpadded": {"kernel_size": 3, "padding": 0},
    "5x5-pad1-stride2": {"kernel_size": 5, "stride": 2, "padding": 1},
    "3x3-dilation2": {"kernel_size": 3, "dilation": 2},
    "3x3-dilation2-unpadded": {"kernel_size": 3, "dilation": (2, 1), "padding": 0, "stride": 2},
    "2x2": {"kernel_size": 2},
    "2x2-stride2": {"kernel_size": 2, "stride": 2, "padding": 0},
    "4x4-pad0": {"kernel_size": 4, "padding": 0},
    "4x4-pad1": {"kernel_size": 4, "padding": 1},
    "4x4-pad1-stride2": {"kernel_size": 4, "padding": 1, "stride": 2},
    "1x3": {"kernel_size": (1, 3)},
    "3x1-stride1x2": {"kernel_size": (3, 1), "stride": (1, 2), "padding": (1, 0)},
    "5x2": {"kernel_size": (5, 2), "padding": (2, 0)},
    "3x3-pad2": {"kernel_size": 3, "padding": 2},
    "2x2-pad1": {"kernel_size": 2, "padding": 1},
    "3x1-pad1-stride2": {"kernel_size": (3, 1), "padding": 1, "stride": 2},
    "1x1-pad3-stride2": {"kernel_size": 1, "padding": 3, "stride": 2},
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def convolution_of(layer: AAConv2d, x: Tensor) -> Tensor:
    """The layer's convolution with padding as PyTorch's own module applies it."""
    assert layer.conv is not None
    return F.conv2d(x, layer.conv.weight, layer.conv.bias, layer.conv.stride, layer.conv.padding, layer.conv.dilation)


@every_geometry
@pytest.mark.parametrize("size", [(7, 6), (9, 9), (8, 5)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_map_has_the_convolutions_size_and_its_values_first(
    geometry: dict[str, Any], size: tuple[int, int]
) -> None:
    layer = randomise(AAConv2d(6, 16, feature_size=4, **geometry))
    x = maps(2, 6, *size)
    out, convolved = layer(x), convolution_of(layer, x)
    assert out.shape == (2, 16, *convolved.shape[2:])
    torch.testing.assert_close(out[:, : convolved.shape[1]], convolved)


@every_geometry
def test_attention_is_that_of_the_pixels_at_the_centres(geometry: dict[str, Any]) -> None:
    layer = randomise(AAConv2d(6, 16, feature_size=4, **geometry))
    x = maps(2, 6, 9, 8)
    rows, columns = layer(x).shape[2:]
    kernel, stride, dilation = (pair(geometry.get(key, 1)) for key in ("kernel_size", "stride", "dilation"))
    padding = layer.conv.padding

    def centre(axis: int, place: int) -> int:
        return place * stride[axis] - padding[axis] + dilation[axis] * (kernel[axis] - 1) // 2

    def pixel(row: int, column: int) -> torch.Tensor:
        """A pixel, or zeros outside the map."""
        inside = 0 <= row < 9 and 0 <= column < 8
        return x[:, :, row, column] if inside else torch.zeros(2, 6)

    seen = torch.stack(
        [torch.stack([pixel(centre(0, i), centre(1, j)) for j in range(columns)], dim=-1) for i in range(rows)],
        dim=-2,
    )
    plain = AAConv2d(6, 16, 1, feature_size=4)
    plain.attention.load_state_dict(layer.attention.state_dict())
    torch.testing.assert_close(layer.attention(x), plain.attention(seen))


@pytest.mark.parametrize("kernel_size", [1, 3, 5, (1, 3), (7, 1)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
def test_no_padding_given_keeps_the_size_for_odd_kernels(kernel_size: int | tuple[int, int], dilation: int) -> None:
    layer = AAConv2d(6, 16, kernel_size, dilation=dilation, feature_size=4)
    assert layer(maps(1, 6, 5, 7)).shape == (1, 16, 5, 7)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"kernel_size": 3, "padding": -1}, r"`padding` \(=-1\) must be an integer of at least 0"),
        ({"kernel_size": 3, "padding": "same"}, r"`padding` \(='same'\) must be an integer of at least 0"),
        ({"kernel_size": 0}, r"`kernel_size` \(=0\) must be an integer of at least 1"),
        ({"kernel_size": (3, 3, 3)}, r"`kernel_size` \(=\(3, 3, 3\)\) must be one integer or two, \(height, width\)"),
        ({"kernel_size": 3, "stride": 0}, r"`stride` \(=0\) must be an integer of at least 1"),
    ],
    ids=lambda value: "-".join(f"{k}{v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_impossible_geometries_are_errors(geometry: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AAConv2d(6, 16, **geometry)


def test_groups_are_the_convolutions_alone() -> None:
    layer = randomise(AAConv2d(6, 14, 3, groups=3, heads=2, dk=4, dv=2, feature_size=4))
    assert layer.conv.weight.shape == (12, 2, 3, 3)
    assert layer.attention.qkv.weight.shape == (10, 6, 1, 1)
    assert layer(maps(2, 6, 5, 4)).shape == (2, 14, 5, 4)


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride2-unpadded": {"kernel_size": 3, "stride": 2},
    "1x3-dilated": {"kernel_size": (1, 3), "padding": (0, 2), "dilation": (1, 2)},
    "4x4-no-bias": {"kernel_size": 4, "padding": 1, "stride": 2, "bias": False},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_from_conv_takes_the_geometry_and_the_first_filters(options: dict[str, Any]) -> None:
    conv = nn.Conv2d(6, 16, **options)
    layer = AAConv2d.from_conv(conv, feature_size=4)
    filters = 16 - layer.attention.out_channels
    assert torch.equal(layer.conv.weight, conv.weight[:filters])
    assert (layer.attention.qkv.bias is None) == (conv.bias is None)
    x = maps(2, 6, 8, 7)
    out = layer(x)
    assert out.shape == conv(x).shape
    torch.testing.assert_close(out[:, :filters], conv(x)[:, :filters])


def test_from_conv_copies_the_filters_and_does_not_share_them() -> None:
    conv = nn.Conv2d(6, 16, 3)
    layer = AAConv2d.from_conv(conv, feature_size=4)
    before = layer.conv.weight.clone()
    with torch.no_grad():
        conv.weight.zero_()
    assert torch.equal(layer.conv.weight, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_from_conv_follows_the_type_of_the_filters_without_rounding(dtype: torch.dtype) -> None:
    conv = nn.Conv2d(6, 16, 3, dtype=dtype)
    layer = AAConv2d.from_conv(conv, feature_size=4)
    assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
    assert torch.equal(layer.conv.weight, conv.weight[: len(layer.conv.weight)])


def test_from_conv_follows_to_the_meta_device() -> None:
    layer = AAConv2d.from_conv(nn.Conv2d(6, 16, 3, device="meta"), feature_size=4)
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"dilation": 2}, {"bias": False}, {"stride": 2}], ids=lambda options: next(iter(options))
)
def test_from_conv_refuses_options_that_the_convolution_settles(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"`\w+` \(=(2|False)\) is that of the convolution whose place AAConv2d takes"):
        AAConv2d.from_conv(nn.Conv2d(6, 16, 3), **options)


def test_from_conv_keeps_frozen_filters_frozen() -> None:
    layer = AAConv2d.from_conv(nn.Conv2d(6, 16, 3).requires_grad_(False), feature_size=4)
    assert {name for name, p in layer.named_parameters() if not p.requires_grad} == {"conv.weight", "conv.bias"}


@pytest.mark.parametrize(
    "options",
    [{"groups": 2}, {"padding_mode": "reflect", "padding": 1}, {"padding": "same"}],
    ids=["groups", "reflect", "padding-in-words"],
)
def test_from_conv_refuses_what_attention_cannot_follow(options: dict[str, Any]) -> None:
    message = r"AAConv2d can take the place of a convolution with groups=1 and numeric zero padding; got Conv2d"
    with pytest.raises(UsageError, match=message):
        AAConv2d.from_conv(nn.Conv2d(6, 16, 3, **options))
