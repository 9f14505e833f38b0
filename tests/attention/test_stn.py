"""Spatial transformers against the paper's sums over all pixels, one value at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attention.builders import build, maps, randomise
from saccade.attention.stn import SpatialTransformer, base_grid, transform_grid, warp
from saccade.errors import UsageError


def coordinate(index: int, size: int, align_corners: bool) -> float:
    if align_corners:
        return 0.0 if size == 1 else 2 * index / (size - 1) - 1
    return (2 * index + 1) / size - 1


def pixel(coordinate: float, size: int, align_corners: bool) -> float:
    return (coordinate + 1) / 2 * (size - 1) if align_corners else ((coordinate + 1) * size - 1) / 2


def inside(place: float, size: int, align_corners: bool, padding_mode: str) -> float:
    """The place that is read instead: the nearest of the map, or the mirrored one."""
    if padding_mode == "reflection":
        low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
        while high > low and not low <= place <= high:
            place = 2 * low - place if place < low else 2 * high - place
    return place if padding_mode == "zeros" else min(max(place, 0.0), size - 1.0)


def sampled(plane: np.ndarray, u: float, v: float, align_corners: bool, padding_mode: str) -> float:
    """The paper's sum over rows m and columns n; outside the map there is nothing to sum."""
    height, width = plane.shape
    u = inside(pixel(u, width, align_corners), width, align_corners, padding_mode)
    v = inside(pixel(v, height, align_corners), height, align_corners, padding_mode)
    total = 0.0
    for m, n in np.ndindex(height, width):
        total += plane[m, n] * max(0.0, 1 - abs(u - n)) * max(0.0, 1 - abs(v - m))
    return total


def transformed(x: np.ndarray, theta: np.ndarray, align_corners: bool, padding_mode: str) -> np.ndarray:
    out = np.empty(x.shape)
    height, width = x.shape[2:]
    for b, c, i, j in np.ndindex(*x.shape):
        target = np.array([coordinate(j, width, align_corners), coordinate(i, height, align_corners), 1.0])
        u, v = theta[b] @ target
        out[b, c, i, j] = sampled(x[b, c], u, v, align_corners, padding_mode)
    return out


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 3 x 3 convolution with zeros around the map, one output value at a time."""
    _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.empty((len(weight), height, width))
    for o, i, j in np.ndindex(*out.shape):
        out[o, i, j] = (weight[o] * padded[:, i : i + 3, j : j + 3]).sum() + bias[o]
    return out


def located(sample: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """The parameters that the default localisation network gives for one map."""
    _, height, width = sample.shape
    planes = np.empty((2, height, width))
    for i, j in np.ndindex(height, width):
        planes[:, i, j] = coordinate(j, width, True), coordinate(i, height, True)
    hidden = np.concatenate((sample, planes))
    first = np.concatenate((state["features.0.conv.weight"], state["features.0.coordinates.weight"]), axis=1)
    hidden = np.maximum(convolve(hidden, first, state["features.0.conv.bias"]), 0)
    hidden = np.maximum(convolve(hidden, state["features.2.weight"], state["features.2.bias"]), 0)
    means = np.array([plane.sum() / plane.size for plane in hidden])
    means = (means - means.mean()) / np.sqrt(means.var() + 1e-5) * state["norm.weight"] + state["norm.bias"]
    return state["weight"] @ means + state["bias"]


@pytest.mark.parametrize("size", [(7, 5), (4, 6), (1, 4), (1, 1)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"align_corners": False},
        {"padding_mode": "border"},
        {"padding_mode": "reflection"},
        {"padding_mode": "border", "align_corners": False},
        {"padding_mode": "reflection", "align_corners": False},
        {"transform": "attention", "hidden": 5},
    ],
    ids=str,
)
def test_equals_the_papers_equations(options: dict, size: tuple[int, int]) -> None:
    module, x = build("stn", 3, **options).double(), maps(2, 3, *size, dtype=torch.float64)
    state = {key: value.numpy() for key, value in module.localization.state_dict().items()}
    parameters = [located(sample, state) for sample in x.numpy()]
    if options.get("transform") == "attention":
        theta = np.array([[[s, 0, across], [0, s, down]] for s, across, down in parameters])
    else:
        theta = np.reshape(parameters, (2, 2, 3))
    np.testing.assert_allclose(module.theta(x).detach().numpy(), theta, rtol=1e-10)
    expected = transformed(x.numpy(), theta, options.get("align_corners", True), options.get("padding_mode", "zeros"))
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("transform", ["affine", "attention"])
@pytest.mark.parametrize("size", [(7, 5), (1, 6), (1, 1), (28, 28)], ids=str)
def test_starts_as_the_identity_up_to_rounding(size: tuple[int, int], transform: str, align_corners: bool) -> None:
    module = SpatialTransformer(6, transform=transform, align_corners=align_corners)
    x = maps(2, 6, *size)
    assert torch.equal(module.theta(x), torch.eye(2, 3).expand(2, 2, 3))
    torch.testing.assert_close(module(x), x, rtol=1e-4, atol=2e-5)
    assert not module.starts_as_identity


def fixed(*parameters: float) -> nn.Module:
    """A localisation that always says the same."""

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor(parameters, dtype=x.dtype).expand(len(x), -1)

    return Fixed()


def test_a_shift_by_one_pixel_moves_the_map_and_fills_with_zeros() -> None:
    x = maps(2, 3, 5, 9)
    # On 9 columns a pixel is 2 / 8 wide; a positive shift reads further right.
    out = SpatialTransformer(3, localization=fixed(1, 0, 0.25, 0, 1, 0))(x)
    torch.testing.assert_close(out[..., :-1], x[..., 1:])
    assert not out[..., -1].any()


def test_the_first_row_of_theta_is_the_columns_and_a_swap_transposes() -> None:
    x = maps(1, 2, 6, 6)
    torch.testing.assert_close(SpatialTransformer(2, localization=fixed(0, 1, 0, 1, 0, 0))(x), x.mT)
    torch.testing.assert_close(SpatialTransformer(2, localization=fixed(-1, 0, 0, 0, 1, 0))(x), x.flip(3))


def test_attention_cuts_out_a_part_and_enlarges_it() -> None:
    x = maps(1, 2, 9, 9)
    # Half the size, from the centre of the left upper quarter: pixels 0, 0.5, 1 .. 4.
    out = SpatialTransformer(2, transform="attention", localization=fixed(0.5, -0.5, -0.5))(x)
    torch.testing.assert_close(out[..., ::2, ::2], x[..., :5, :5])


def test_the_default_network_knows_where_things_are() -> None:
    """The mean over a map of convolutions alone is nearly the same wherever a thing is."""
    module = build("stn", 1)
    x = torch.zeros(2, 1, 16, 16)
    x[0, :, 3:6, 3:6] = 1
    x[1, :, 9:12, 9:12] = 1
    first, second = module.theta(x)
    assert (first - second).abs().max() > 1e-2


def test_a_warp_may_have_another_size_and_grid() -> None:
    x, theta = maps(2, 3, 7, 5), torch.eye(2, 3).expand(2, 2, 3)
    out = warp(x, transform_grid(theta, base_grid(13, 9, x)))
    assert out.shape == (2, 3, 13, 9)
    torch.testing.assert_close(out[..., ::2, ::2], x)


def test_a_warp_of_a_bfloat16_map_is_sampled_in_float32() -> None:
    """On 300 columns bfloat16 cannot tell neighbours apart: it has steps of a whole column near the edges."""
    x, theta = maps(1, 2, 3, 300, dtype=torch.bfloat16), torch.tensor([[[0.9, 0.0, 0.03], [0.0, 1.0, 0.0]]])
    out = warp(x, transform_grid(theta.bfloat16().float(), base_grid(3, 300, x)))
    exact = warp(x.float(), transform_grid(theta.bfloat16().float(), base_grid(3, 300, x.float())))
    assert out.dtype is torch.bfloat16
    assert torch.equal(out, exact.bfloat16())


@pytest.mark.parametrize(("transform", "count"), [("affine", 6), ("attention", 3)])
def test_has_the_parameters_of_two_convolutions_and_two_layers(transform: str, count: int) -> None:
    convolutions = (20 + 2) * 16 * 9 + 16 + 16 * 16 * 9 + 16
    module = SpatialTransformer(20, transform=transform)
    assert sum(p.numel() for p in module.parameters()) == convolutions + 2 * 16 + count * 16 + count


def test_a_localisation_of_ones_own_is_trained() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x.mean(dim=(2, 3)))

    module = randomise(SpatialTransformer(3, localization=Own()))
    module(maps(2, 3, 6, 5)).square().sum().backward()
    assert module.localization.last.weight.grad.abs().max() > 0


def test_theta_keeps_its_precision_under_autocast() -> None:
    """Near the identity bfloat16 has steps of 1/128: a smaller step of training must not be lost."""
    module = SpatialTransformer(4)
    with torch.no_grad():
        module.localization.bias[0] = 1.001
    with torch.autocast("cpu", torch.bfloat16):
        theta = module.theta(maps(1, 4, 6, 5))
    assert theta[0, 0, 0].item() == pytest.approx(1.001, abs=1e-6)


@pytest.mark.parametrize(
    ("transform", "own", "message"),
    [
        ("affine", fixed(1, 0, 0), r"must give \(B, 6\) for transform='affine'; it gave \(2, 3\)"),
        ("attention", fixed(1, 0, 0, 0, 1, 0), r"must give \(B, 3\) for transform='attention'; it gave \(2, 6\)"),
        ("affine", nn.Identity(), r"must give \(B, 6\) for transform='affine'; it gave \(2, 4, 5, 5\)"),
    ],
)
def test_a_localisation_with_another_number_of_parameters_is_an_error(
    transform: str, own: nn.Module, message: str
) -> None:
    with pytest.raises(UsageError, match=r"`localization` " + message):
        SpatialTransformer(4, transform=transform, localization=own)(maps(2, 4, 5, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, r"`channels` \(=0\) must be an integer of at least 1"),
        ({"hidden": 1}, r"`hidden` \(=1\) must be an integer of at least 2"),
        ({"transform": "affin"}, r"`transform` \(='affin'\) must be one of .*did you mean 'affine'"),
        ({"padding_mode": "zero"}, r"`padding_mode` \(='zero'\) must be one of .*did you mean 'zeros'"),
        ({"align_corners": 1}, r"`align_corners` \(=1\) must be True or False"),
        ({"localization": "net"}, r"`localization` \(='net'\) must be an nn.Module or None"),
    ],
)
def test_wrong_arguments_are_errors(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SpatialTransformer(**({"channels": 4} | arguments))
