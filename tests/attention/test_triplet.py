"""Triplet attention against the paper's rotations in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.triplet import TripletAttention
from saccade.errors import UsageError


def attend(rotated: np.ndarray, kernel: np.ndarray, norm: tuple[float, ...]) -> np.ndarray:
    """A gate from the maximum and the mean over the first axis, one value at a time, on the other two axes."""
    _, height, width = rotated.shape
    half = kernel.shape[1] // 2
    pooled = np.stack([rotated.max(0), rotated.sum(0) / len(rotated)])
    padded = np.pad(pooled, ((0, 0), (half, half), (half, half)))
    mean, var, weight, bias = norm
    out = np.empty(rotated.shape)
    for i, j in np.ndindex(height, width):
        score = (kernel * padded[:, i : i + 2 * half + 1, j : j + 2 * half + 1]).sum()
        out[:, i, j] = rotated[:, i, j] * sigmoid((score - mean) / np.sqrt(var + 1e-5) * weight + bias)
    return out


def expected(module: TripletAttention, x: torch.Tensor, *, spatial: bool) -> np.ndarray:
    p = {key: value.numpy() for key, value in module.state_dict().items()}

    def branch(rotated: np.ndarray, name: str, kernel: np.ndarray) -> np.ndarray:
        keys = ("running_mean", "running_var", "weight", "bias")
        return attend(rotated, kernel, tuple(p[f"{name}.1.{key}"].item() for key in keys))

    out = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        # Rotated so that H comes first, (H, C, W); and so that W comes first, (W, H, C), where our kernel is (C, H).
        swapped = branch(sample.swapaxes(0, 1), "channel_width", p["channel_width.0.weight"][0]).swapaxes(0, 1)
        kernel = p["channel_height.0.weight"][0].swapaxes(1, 2)
        results = [swapped, branch(sample.swapaxes(0, 2), "channel_height", kernel).swapaxes(0, 2)]
        if spatial:
            results.append(branch(sample, "spatial", p["spatial.0.weight"][0]))
        out[b] = sum(results) / len(results)
    return out


@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("kernel_size", [7, 3])
def test_equals_the_papers_equations(spatial: bool, kernel_size: int) -> None:
    module = build("triplet", 8, spatial=spatial, kernel_size=kernel_size).double()
    x = maps(2, 8, 5, 4, dtype=torch.float64)
    np.testing.assert_allclose(module(x).detach().numpy(), expected(module, x, spatial=spatial), rtol=1e-11)


def test_defaults_are_the_papers() -> None:
    module = build("triplet", 8).double()
    x = maps(2, 8, 5, 4, dtype=torch.float64)
    np.testing.assert_allclose(module(x).detach().numpy(), expected(module, x, spatial=True), rtol=1e-11)
    assert module.get_parameter("channel_width.0.weight").shape == (1, 2, 7, 7)


@pytest.mark.parametrize("channels", [1, 8, 512])
@pytest.mark.parametrize(("kernel_size", "spatial", "count"), [(7, True, 300), (7, False, 200), (3, True, 60)])
def test_number_of_parameters_does_not_depend_on_channels(
    channels: int, kernel_size: int, spatial: bool, count: int
) -> None:
    module = TripletAttention(channels, kernel_size=kernel_size, spatial=spatial)
    assert sum(p.numel() for p in module.parameters()) == count


def test_the_gate_is_the_mean_of_three_that_are_each_constant_on_one_axis() -> None:
    module, x = build("triplet", 20), maps(2, 20, 5, 4)
    gates = module.gates(x)
    assert [tuple(gate.shape) for gate in gates] == [(2, 1, 5, 4), (2, 20, 1, 4), (2, 20, 5, 1)]
    assert all(((gate > 0) & (gate < 1)).all() for gate in gates)
    torch.testing.assert_close(module(x), sum(x * gate for gate in gates) / 3)
    torch.testing.assert_close(module(x), x * module.gate(x))


def test_the_axes_are_alike() -> None:
    """With the same layers in all branches, a map with rows and columns exchanged gives the exchanged result."""
    module, x = build("triplet", 6), maps(2, 6, 5, 4)
    turned = build("triplet", 6)
    turned.channel_width.load_state_dict(module.channel_height.state_dict())
    turned.channel_height.load_state_dict(module.channel_width.state_dict())
    with torch.no_grad():
        kernel = turned.get_parameter("spatial.0.weight")
        kernel.copy_(kernel.transpose(2, 3).clone())
    torch.testing.assert_close(turned(x.transpose(2, 3)).transpose(2, 3), module(x))


def test_a_fresh_module_starts_near_one_half() -> None:
    """Logits are normalised in train mode: every gate averages about one half, none is closed."""
    torch.manual_seed(0)
    gate = TripletAttention(20).train().gate(maps(4, 20, 9, 8))
    assert abs(gate.mean().item() - 0.5) < 0.05
    assert gate.min() > 0.05
    assert gate.max() < 0.95


@pytest.mark.parametrize(("branch", "axis"), [("spatial", 1), ("channel_width", 2), ("channel_height", 3)])
def test_batch_norms_have_the_authors_momentum(branch: str, axis: int) -> None:
    module, x = build("triplet", 20).train(), maps(2, 20, 5, 4)
    before = module.get_buffer(f"{branch}.1.running_mean").clone()
    scores = module.get_submodule(f"{branch}.0")(torch.stack((x.amax(axis), x.mean(axis)), dim=1))
    module(x)
    after = module.get_buffer(f"{branch}.1.running_mean")
    torch.testing.assert_close(after, 0.99 * before + 0.01 * scores.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 0}, r"`kernel_size` \(=0\) must be an integer of at least 1"),
        ({"kernel_size": 4}, r"`kernel_size` \(=4\) must be odd"),
        ({"spatial": None}, r"`spatial` \(=None\) must be True or False"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TripletAttention(8, **options)


def test_channels_are_checked_although_no_parameter_depends_on_them() -> None:
    with pytest.raises(UsageError, match=r"`channels` \(=0\) must be an integer of at least 1"):
        TripletAttention(0)
    with pytest.raises(UsageError, match=r"triplet was built for 8 channels; got a map with 6"):
        TripletAttention(8)(maps(2, 6, 5, 4))
