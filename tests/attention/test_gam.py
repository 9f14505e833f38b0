"""Global attention against its equations in plain numpy, and the single value that a BatchNorm cannot normalise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from attention.builders import build, maps, randomise, sigmoid
from saccade.attention._norm import BatchNorm2d
from saccade.attention.gam import GlobalAttention
from saccade.errors import UsageError


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 7 x 7 convolution with zeros around the map, one output value at a time."""
    _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3)))
    out = np.empty((len(weight), height, width))
    for o in range(len(weight)):
        for i in range(height):
            for j in range(width):
                out[o, i, j] = (weight[o] * padded[:, i : i + 7, j : j + 7]).sum() + bias[o]
    return out


@pytest.mark.parametrize("channel_gate", ["none", "sigmoid"])
def test_equals_the_papers_equations(channel_gate: str) -> None:
    module = build("gam", 8, reduction=2, channel_gate=channel_gate).double()
    x = maps(2, 8, 5, 4, dtype=torch.float64)
    p = {key: value.numpy() for key, value in module.state_dict().items()}

    def normalise(x: np.ndarray, layer: str) -> np.ndarray:
        mean, var, weight, bias = (
            p[f"spatial.{layer}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        channel = np.empty(sample.shape)
        for i, j in np.ndindex(5, 4):
            hidden = np.maximum(p["fc1.weight"] @ sample[:, i, j] + p["fc1.bias"], 0)
            channel[:, i, j] = p["fc2.weight"] @ hidden + p["fc2.bias"]
        attended = (channel if channel_gate == "none" else sigmoid(channel)) * sample
        hidden = convolve(attended, p["spatial.0.weight"], p["spatial.0.bias"])
        hidden = np.maximum(normalise(hidden, "1"), 0)
        spatial = normalise(convolve(hidden, p["spatial.3.weight"], p["spatial.3.bias"]), "4")
        expected[b] = sigmoid(spatial) * attended
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-11)


@pytest.mark.parametrize("channel_gate", ["none", "sigmoid"])
def test_the_gate_is_the_whole_factor_of_the_input(channel_gate: str) -> None:
    module, x = build("gam", 20, channel_gate=channel_gate), maps(2, 20, 5, 4)
    torch.testing.assert_close(x * module.gate(x), module(x))
    assert module.gate(x).shape == x.shape


@pytest.mark.parametrize(("channels", "reduction"), [(64, 4), (64, 8), (6, 4), (2, 4)])
def test_has_the_parameters_of_the_published_code(channels: int, reduction: int) -> None:
    width = max(1, channels // reduction)
    perceptron = 2 * channels * width + width + channels
    convolutions = 98 * channels * width + width + channels
    norms = 2 * width + 2 * channels
    module = GlobalAttention(channels, reduction=reduction)
    assert sum(p.numel() for p in module.parameters()) == perceptron + convolutions + norms


def test_default_has_no_sigmoid_on_the_channel_branch() -> None:
    channel = build("gam", 20).channel_map(maps(2, 20, 5, 4))
    assert channel.min() < 0
    assert channel.max() > 1


def test_an_unknown_channel_gate_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"`channel_gate` \(='sigmod'\) must be one of .*did you mean 'sigmoid'"):
        GlobalAttention(8, channel_gate="sigmod")


def test_batch_norm_with_one_value_per_channel_uses_and_keeps_the_running_statistics() -> None:
    norm, x = randomise(BatchNorm2d(6)).train(), maps(1, 6, 1, 1)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    out = norm(x)
    torch.testing.assert_close(out, norm.eval()(x))
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("size", [(2, 6, 1, 1), (1, 6, 1, 2), (3, 6, 4, 5)], ids=str)
def test_batch_norm_with_more_values_is_pytorchs(size: tuple[int, ...]) -> None:
    ours, theirs = randomise(BatchNorm2d(6)).train(), randomise(nn.BatchNorm2d(6)).train()
    assert torch.equal(ours(maps(*size)), theirs(maps(*size)))
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
