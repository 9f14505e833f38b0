"""Bottleneck attention against its equations in plain numpy, with the paper's branches and with the authors'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.bam import BottleneckAttentionModule
from saccade.errors import UsageError


class Layers:
    """The layers of a module in eval mode, by their names, on one sample (C, H, W)."""

    def __init__(self, module: BottleneckAttentionModule) -> None:
        self.state = {key: value.numpy() for key, value in module.state_dict().items()}

    def normalise(self, x: np.ndarray, layer: str) -> np.ndarray:
        mean, var, weight, bias = (
            self.state[f"{layer}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def convolve(self, x: np.ndarray, layer: str, dilation: int = 1) -> np.ndarray:
        """One value at a time, with zeros around the map."""
        weight, bias = self.state[f"{layer}.weight"], self.state[f"{layer}.bias"]
        size = weight.shape[2]
        _, height, width = x.shape
        out = np.empty((len(weight), height, width))
        for o, i, j in np.ndindex(*out.shape):
            value = bias[o]
            for a, b in np.ndindex(size, size):
                row, column = i + dilation * (a - size // 2), j + dilation * (b - size // 2)
                if 0 <= row < height and 0 <= column < width:
                    value += weight[o, :, a, b] @ x[:, row, column]
            out[o, i, j] = value
        return out


def expected(
    module: BottleneckAttentionModule, x: torch.Tensor, *, combine: str, norm_last: bool, dilation: int
) -> np.ndarray:
    layers = Layers(module)
    out = np.empty(x.shape)
    for n, sample in enumerate(x.numpy()):
        z = np.array([plane.sum() / plane.size for plane in sample])[:, None, None]
        hidden = np.maximum(layers.normalise(layers.convolve(z, "channel.0"), "channel.1"), 0)
        channel = layers.convolve(hidden, "channel.3")
        hidden = sample
        for conv, norm, spread in (("0", "1", 1), ("3", "4", dilation), ("6", "7", dilation)):
            hidden = layers.convolve(hidden, f"spatial.{conv}", spread)
            hidden = np.maximum(layers.normalise(hidden, f"spatial.{norm}"), 0)
        spatial = layers.convolve(hidden, "spatial.9")
        if norm_last:
            channel, spatial = layers.normalise(channel, "channel.4"), layers.normalise(spatial, "spatial.10")
        joined = channel + spatial if combine == "sum" else channel * spatial
        out[n] = sample + sigmoid(joined) * sample
    return out


@pytest.mark.parametrize("combine", ["sum", "product"])
@pytest.mark.parametrize("norm_last", [True, False])
@pytest.mark.parametrize("dilation", [4, 2])
def test_equals_the_equations(combine: str, norm_last: bool, dilation: int) -> None:
    options: dict[str, Any] = {"combine": combine, "norm_last": norm_last, "dilation": dilation}
    module = build("bam", 12, reduction=2, **options).double()
    x = maps(2, 12, 9, 6, dtype=torch.float64)
    np.testing.assert_allclose(module(x).detach().numpy(), expected(module, x, **options), rtol=1e-11)


def test_defaults_are_the_papers() -> None:
    module = build("bam", 32).double()
    x = maps(2, 32, 9, 6, dtype=torch.float64)
    wanted = expected(module, x, combine="sum", norm_last=True, dilation=4)
    np.testing.assert_allclose(module(x).detach().numpy(), wanted, rtol=1e-11)
    assert module.get_parameter("channel.0.weight").shape == (2, 32, 1, 1)


@pytest.mark.parametrize(("channels", "reduction"), [(64, 16), (20, 16), (8, 16), (12, 3)])
def test_number_of_parameters(channels: int, reduction: int) -> None:
    width = max(1, channels // reduction)
    channel = 2 * channels * width + width + channels + 2 * width
    spatial = (channels * width + width) + 2 * (9 * width * width + width) + (width + 1) + 3 * 2 * width
    count = {
        norm_last: sum(p.numel() for p in module.parameters())
        for norm_last in (False, True)
        for module in [BottleneckAttentionModule(channels, reduction=reduction, norm_last=norm_last)]
    }
    assert count == {False: channel + spatial, True: channel + spatial + 2 * channels + 2}


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_the_gate_is_one_number_between_one_and_two_per_value(combine: str) -> None:
    module, x = build("bam", 20, combine=combine), maps(2, 20, 5, 4)
    gate = module.gate(x)
    assert gate.shape == (2, 20, 5, 4)
    assert ((gate > 1) & (gate < 2)).all()
    torch.testing.assert_close(module(x), x * gate)


def test_the_channel_branch_averages_all_columns_of_a_wide_map() -> None:
    """The authors' code reads the first H columns alone; what differs only behind them must count."""
    module, x = build("bam", 20, reduction=2), maps(2, 20, 3, 30)
    changed = x.clone()
    changed[..., 25:] += 1
    # Columns 0 to 3 are more than the spatial branch's 8 pixels away from the change: only the mean tells them.
    assert (module.gate(changed)[..., :4] - module.gate(x)[..., :4]).abs().max() > 1e-3


def test_the_spatial_branch_sees_eight_pixels_away_and_no_further() -> None:
    module = build("bam", 20, reduction=2)
    x = maps(1, 20, 25, 25, dtype=torch.float64).requires_grad_()
    (grad,) = torch.autograd.grad(module.double().spatial(x)[0, 0, 12, 12], x)
    rows, columns = grad[0].abs().sum(0).nonzero(as_tuple=True)
    assert set(rows.tolist()) <= {4, 8, 12, 16, 20}
    assert set(columns.tolist()) <= {4, 8, 12, 16, 20}
    assert (rows.min(), rows.max()) == (4, 20)


def test_a_single_map_trains_with_the_running_statistics_of_the_channel_branch() -> None:
    module, x = build("bam", 20).train(), maps(1, 20, 5, 4)
    before = {key: value.clone() for key, value in module.state_dict().items() if "running" in key}
    module(x).sum().backward()
    changed = {
        key.partition(".")[0] for key, value in before.items() if not torch.equal(module.state_dict()[key], value)
    }
    assert changed == {"spatial"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": 0}, r"`reduction` \(=0\) must be an integer of at least 1"),
        ({"dilation": 0}, r"`dilation` \(=0\) must be an integer of at least 1"),
        ({"combine": "mul"}, r"`combine` \(='mul'\) must be one of 'sum', 'product'"),
        ({"norm_last": "yes"}, r"`norm_last` \(='yes'\) must be True or False"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BottleneckAttentionModule(8, **options)
