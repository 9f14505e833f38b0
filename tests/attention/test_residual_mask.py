"""The soft mask of residual attention against its equations in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.residual_mask import ResidualMask, channel_activation, spatial_activation
from saccade.errors import UsageError

Parameters = dict[str, np.ndarray]


def pre_activated(z: np.ndarray, p: Parameters, path: str) -> np.ndarray:
    """BatchNorm by the running statistics, ReLU, and a convolution with zeros around the map, value by value."""
    mean, var, scale, shift = (
        p[f"{path}.0.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    z = np.maximum((z - mean) / np.sqrt(var + 1e-5) * scale + shift, 0)
    weight = p[f"{path}.2.weight"]
    size = weight.shape[-1]
    padded = np.pad(z, ((0, 0), (size // 2, size // 2), (size // 2, size // 2)))
    out = np.empty((len(weight), *z.shape[1:]))
    for o, i, j in np.ndindex(out.shape):
        out[o, i, j] = (weight[o] * padded[:, i : i + size, j : j + size]).sum()
    return out


def residual_units(z: np.ndarray, p: Parameters, path: str, count: int) -> np.ndarray:
    for number in range(count):
        hidden = z
        for layer in ("reduce", "spread", "expand"):
            hidden = pre_activated(hidden, p, f"{path}.{number}.{layer}")
        z = z + hidden
    return z


def halve(x: np.ndarray) -> np.ndarray:
    """The largest value of 3 x 3 around every second position."""
    out = np.empty((len(x), (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2))
    for c, i, j in np.ndindex(out.shape):
        out[c, i, j] = x[c, max(0, 2 * i - 1) : 2 * i + 2, max(0, 2 * j - 1) : 2 * j + 2].max()
    return out


def enlarge(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Between the centres of pixels, linearly each way; beyond the outermost centres, as there."""

    def line(values: np.ndarray, length: int) -> np.ndarray:
        centres = (np.arange(len(values)) + 0.5) / len(values)
        return np.interp((np.arange(length) + 0.5) / length, centres, values)

    rows = np.apply_along_axis(line, 1, x, size[0])
    return np.apply_along_axis(line, 2, rows, size[1])


def soft_mask(x: np.ndarray, p: Parameters, depth: int, units: int, activation: str) -> np.ndarray:
    down = [x]
    for d in range(depth):
        down.append(residual_units(halve(down[d]), p, f"down.{d}", units))
    z = down[depth]
    for d in range(depth - 1, -1, -1):
        z = enlarge(residual_units(z, p, f"up.{d}", units), down[d].shape[1:])
        if d > 0:
            z = z + down[d]
    z = pre_activated(pre_activated(z, p, "head.0"), p, "head.1")
    if activation == "channel":
        return z / np.sqrt((z**2).sum(0))
    if activation == "spatial":
        centred = z - z.mean((1, 2), keepdims=True)
        return sigmoid(centred / np.sqrt((centred**2).mean((1, 2), keepdims=True) + 1e-5))
    return sigmoid(z)


VARIANTS = [{}, {"depth": 2}, {"depth": 3, "units": 2}, {"activation": "channel"}, {"activation": "spatial"}]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_papers_equations(options: dict[str, Any]) -> None:
    module = build("residual_mask", 6, reduction=2, **options).double()
    x = maps(2, 6, 9, 6, dtype=torch.float64)
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    form = {"depth": 1, "units": 1, "activation": "mixed"} | options
    expected = np.stack([(1 + soft_mask(sample, p, **form)) * sample for sample in x.numpy()])
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10)


def test_the_gate_lets_everything_through_and_adds_up_to_as_much() -> None:
    module, x = build("residual_mask", 20), maps(2, 20, 5, 4)
    gate = module.gate(x)
    assert gate.shape == x.shape
    assert ((gate > 1) & (gate < 2)).all()
    torch.testing.assert_close(module(x), x * gate)


def test_the_channel_activation_gives_every_position_a_vector_of_length_one() -> None:
    mask = build("residual_mask", 20, activation="channel").mask(maps(2, 20, 5, 4))
    torch.testing.assert_close(mask.norm(dim=1), torch.ones(2, 5, 4))


def test_the_spatial_activation_balances_every_channel_over_its_positions() -> None:
    module = build("residual_mask", 20, activation="spatial").double()
    with torch.no_grad():
        # So that what keeps the variance from 0 does not show.
        module.head[1][2].weight.mul_(100)
    logits = module.mask(maps(2, 20, 9, 8).double()).logit()
    torch.testing.assert_close(logits.mean((2, 3)), torch.zeros(2, 20).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits.var((2, 3), correction=0), torch.ones(2, 20).double(), rtol=1e-3, atol=0)


def test_the_spatial_activation_of_a_single_position_is_a_half() -> None:
    module, x = build("residual_mask", 20, activation="spatial").train(), maps(1, 20, 1, 1)
    torch.testing.assert_close(module(x), 1.5 * x)


@pytest.mark.parametrize(("depth", "last"), [(1, 6), (2, 20), (3, 44)])
def test_sees_as_far_as_its_poolings_and_units_reach(depth: int, last: int) -> None:
    """Every unit reaches a row further at its resolution, pooling and upsampling as far as their windows."""
    module, x = build("residual_mask", 16, depth=depth, reduction=1).double(), maps(1, 16, 64, 4).double()
    changed = x.clone()
    changed[:, :, 0] += 3
    rows = (module.mask(changed) != module.mask(x)).any(dim=3).any(dim=1)[0].nonzero()
    assert rows.max() == last


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 2)], ids=str)
def test_every_variant_trains_on_a_single_map_of_any_size(options: dict[str, Any], size: tuple[int, int]) -> None:
    module, x = build("residual_mask", 8, **options).train(), maps(1, 8, *size)
    out = module(x)
    out.square().sum().backward()
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_one_exported_program_serves_every_size_above_the_smallest(options: dict[str, Any]) -> None:
    module = build("residual_mask", 8, **options)
    least = 2 ** options.get("depth", 1) + 1
    dims = {axis: torch.export.Dim(name, min=least, max=64) for axis, name in ((2, "height"), (3, "width"))}
    dims[0] = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (maps(2, 8, 16, 17),), dynamic_shapes=(dims,), strict=True).module()
    for size in [(1, 8, least, least + 1), (3, 8, 21, 12), (2, 8, 16, 33)]:
        torch.testing.assert_close(program(maps(*size)), module(maps(*size)))


@pytest.mark.parametrize(("channels", "width"), [(64, 16), (6, 1), (2, 1)])
@pytest.mark.parametrize(("depth", "units"), [(1, 1), (2, 1), (3, 2)])
def test_has_the_parameters_of_its_units(channels: int, width: int, depth: int, units: int) -> None:
    unit = 2 * channels * width + 9 * width**2 + 2 * channels + 4 * width
    head = 2 * channels**2 + 4 * channels
    module = ResidualMask(channels, depth=depth, units=units)
    assert sum(p.numel() for p in module.parameters()) == 2 * depth * units * unit + head


@pytest.mark.parametrize("option", ["depth", "units", "reduction"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_counts_below_one_are_errors(option: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"`{option}` \(=.*\) must be an integer of at least 1"):
        ResidualMask(8, **{option: value})
    with pytest.raises(UsageError, match=r"`channels` \(=.*\) must be an integer of at least 1"):
        ResidualMask(value)


def test_an_unknown_activation_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"`activation` \(='mixd'\) must be one of .*did you mean 'mixed'"):
        ResidualMask(8, activation="mixd")


@pytest.mark.parametrize("activation", [channel_activation, spatial_activation])
def test_activations_of_constant_maps_are_finite_in_float16(activation) -> None:
    z = torch.zeros(1, 4, 3, 2, dtype=torch.float16).requires_grad_()
    out = activation(z)
    out.sum().backward()
    assert out.dtype is torch.float16
    assert out.isfinite().all()
    assert z.grad.isfinite().all()
