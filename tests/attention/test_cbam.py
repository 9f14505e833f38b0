"""Convolutional block attention against its equations in plain numpy, in the paper's, the authors' and timm's form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention.builders import build, maps, randomise, sigmoid
from saccade.attention.cbam import ConvBlockAttention
from saccade.errors import UsageError


def pool(name: str, plane: np.ndarray) -> float:
    values = plane.ravel()
    match name:
        case "avg":
            return values.sum() / len(values)
        case "max":
            return max(values)
        case "lp":
            return np.sqrt(sum(v * v for v in values))
        case _:
            return np.log(sum(np.exp(v) for v in values))


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Two maps to one by a square kernel with zeros around the map, one value at a time."""
    _, height, width = x.shape
    half = kernel.shape[1] // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half)))
    out = np.empty((height, width))
    for i, j in np.ndindex(height, width):
        out[i, j] = (kernel * padded[:, i : i + 2 * half + 1, j : j + 2 * half + 1]).sum()
    return out


def expected(module: ConvBlockAttention, x: torch.Tensor, pools: tuple[str, ...], spatial: str) -> np.ndarray:
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    out = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        logits = np.zeros(len(sample))
        for name in pools:
            z = np.array([pool(name, plane) for plane in sample])
            hidden = np.maximum(p["mlp.0.weight"] @ z + p.get("mlp.0.bias", 0), 0)
            logits += p["mlp.2.weight"] @ hidden + p.get("mlp.2.bias", 0)
        attended = sigmoid(logits)[:, None, None] * sample
        if spatial == "none":
            out[b] = attended
            continue
        two = [attended.sum(0) / len(attended), attended.max(0)]
        if spatial == "authors":
            two = [two[1], two[0]]
        scores = convolve(np.stack(two), p["spatial.0.weight"][0])
        if spatial != "paper":
            scores = (scores - p["spatial.1.running_mean"]) / np.sqrt(p["spatial.1.running_var"] + 1e-5)
            scores = scores * p["spatial.1.weight"] + p["spatial.1.bias"]
        out[b] = sigmoid(scores) * attended
    return out


@pytest.mark.parametrize("spatial", ["paper", "authors", "timm", "none"])
@pytest.mark.parametrize("pools", [("avg", "max"), ("lse", "lp"), ("max",)], ids="+".join)
def test_equals_the_equations(spatial: str, pools: tuple[str, ...]) -> None:
    module = build("cbam", 12, reduction=3, pools=pools, spatial=spatial).double()
    x = maps(2, 12, 5, 4, dtype=torch.float64)
    np.testing.assert_allclose(module(x).detach().numpy(), expected(module, x, pools, spatial), rtol=1e-11)


@pytest.mark.parametrize("options", [{"bias": False}, {"kernel_size": 3}, {"kernel_size": 1}], ids=str)
def test_options_of_size_keep_the_equations(options: dict[str, Any]) -> None:
    module, x = build("cbam", 12, **options).double(), maps(2, 12, 5, 4, dtype=torch.float64)
    wanted = expected(module, x, ("avg", "max"), "paper")
    np.testing.assert_allclose(module(x).detach().numpy(), wanted, rtol=1e-11)


def test_defaults_are_the_papers() -> None:
    module = ConvBlockAttention(64)
    shapes = {key: tuple(p.shape) for key, p in module.named_parameters()}
    assert shapes == {
        "mlp.0.weight": (4, 64),
        "mlp.0.bias": (4,),
        "mlp.2.weight": (64, 4),
        "mlp.2.bias": (64,),
        "spatial.0.weight": (1, 2, 7, 7),
    }
    assert module.pools == ("avg", "max")


@pytest.mark.parametrize(("spatial", "count"), [("paper", 98), ("authors", 100), ("timm", 100), ("none", 0)])
def test_number_of_parameters(spatial: str, count: int) -> None:
    for bias in (False, True):
        perceptron = 2 * 64 * 4 + (64 + 4 if bias else 0)
        module = ConvBlockAttention(64, bias=bias, spatial=spatial)
        assert sum(p.numel() for p in module.parameters()) == perceptron + count


def test_the_authors_spatial_gate_starts_at_one_half_and_learns() -> None:
    module, x = ConvBlockAttention(20, spatial="authors").train(), maps(2, 20, 5, 4)
    torch.testing.assert_close(module(x), 0.5 * x * module.channel_map(x))
    module(x).square().sum().backward()
    scale = module.get_parameter("spatial.1.weight")
    assert not scale.any()
    assert scale.grad is not None
    assert scale.grad.any()


@pytest.mark.parametrize(("spatial", "momentum"), [("authors", 0.01), ("timm", 0.1)])
def test_one_step_moves_running_statistics_by_the_momentum(spatial: str, momentum: float) -> None:
    module, x = randomise(ConvBlockAttention(20, spatial=spatial)).train(), maps(2, 20, 5, 4)
    before = module.get_buffer("spatial.1.running_mean").clone()
    attended = x * module.channel_map(x)
    two = [attended.mean(1, keepdim=True), attended.amax(1, keepdim=True)]
    scores = module.get_submodule("spatial.0")(torch.cat(two[::-1] if spatial == "authors" else two, dim=1))
    module(x)
    wanted = (1 - momentum) * before + momentum * scores.mean()
    torch.testing.assert_close(module.get_buffer("spatial.1.running_mean"), wanted)


@pytest.mark.parametrize("spatial", ["paper", "authors", "timm", "none"])
def test_the_gate_is_the_whole_factor_between_zero_and_one(spatial: str) -> None:
    module, x = build("cbam", 20, spatial=spatial), maps(2, 20, 5, 4)
    gate = module.gate(x)
    assert gate.shape == ((2, 20, 1, 1) if spatial == "none" else (2, 20, 5, 4))
    assert ((gate > 0) & (gate < 1)).all()
    torch.testing.assert_close(module(x), x * gate)


def test_channel_gate_does_not_know_positions_and_the_spatial_gate_does() -> None:
    module, x = build("cbam", 20), maps(2, 20, 5, 4)
    turned = x.flatten(2).flip(2).unflatten(2, (5, 4))
    torch.testing.assert_close(module.channel_map(turned), module.channel_map(x))
    back = module(turned).flatten(2).flip(2).unflatten(2, (5, 4))
    assert (back - module(x)).abs().max() > 1e-2


def test_pools_in_another_order_give_the_same() -> None:
    x = maps(2, 20, 5, 4)
    torch.testing.assert_close(build("cbam", 20, pools=("max", "avg"))(x), build("cbam", 20)(x))


def test_log_sum_exp_of_large_values_does_not_overflow() -> None:
    module, x = build("cbam", 4, pools=("lse",), spatial="none"), 100 + maps(2, 4, 5, 4)
    wanted = expected(module.double(), x.double(), ("lse",), "none")
    np.testing.assert_allclose(module.float()(x).detach().numpy(), wanted, rtol=1e-4)


def test_gradients_of_a_map_of_zeros_are_finite() -> None:
    module, x = build("cbam", 4, pools=("avg", "max", "lp", "lse")), torch.zeros(2, 4, 5, 4, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_all_pools_work_under_autocast() -> None:
    module = build("cbam", 20, pools=("avg", "max", "lp", "lse"), spatial="authors")
    x = maps(2, 20, 7, 5)
    wanted = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            out = module(given)
            assert out.dtype is given.dtype
            # bfloat16 rounds by up to 2^-8 of a value: weights, activations and the gate, one after the other.
            assert (out.float() - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": 0}, r"`reduction` \(=0\) must be an integer of at least 1"),
        ({"kernel_size": 0}, r"`kernel_size` \(=0\) must be an integer of at least 1"),
        ({"kernel_size": 4}, r"`kernel_size` \(=4\) must be odd"),
        ({"kernel_size": 4, "spatial": "none"}, r"`kernel_size` \(=4\) must be odd"),
        ({"bias": 1}, r"`bias` \(=1\) must be True or False"),
        ({"pools": ()}, r"`pools` \(=\(\)\) must be a tuple of at least one of 'avg', 'max', 'lp', 'lse'"),
        ({"pools": "avg"}, r"`pools` \(='avg'\) must be a tuple of at least one of"),
        ({"pools": ("avg", "min")}, r"`pools` \(='min'\) must be one of 'avg', 'max', 'lp', 'lse'"),
        ({"pools": ("avg", "avg")}, r"`pools` \(=\('avg', 'avg'\)\) must name each pool at most once"),
        ({"spatial": "author"}, r"`spatial` \(='author'\) must be one of .*did you mean 'authors'"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ConvBlockAttention(8, **options)
