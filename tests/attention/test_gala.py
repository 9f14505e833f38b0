"""Global-and-local attention against its equations in plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.gala import GlobalAndLocalAttention
from saccade.errors import UsageError


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A k x k convolution with zeros around the map, one output value at a time."""
    size, (_, height, width) = weight.shape[-1], x.shape
    around = size // 2
    padded = np.pad(x, ((0, 0), (around, around), (around, around)))
    out = np.empty((len(weight), height, width))
    for o, i, j in np.ndindex(out.shape):
        out[o, i, j] = (weight[o] * padded[:, i : i + size, j : j + size]).sum() + bias[o]
    return out


@pytest.mark.parametrize("form", ["paper", "code"])
def test_equals_the_equations(form: str) -> None:
    module, x = build("gala", 8, reduction=2, form=form).double(), maps(2, 8, 5, 4, dtype=torch.float64)
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        squeezed = np.array([plane.sum() / plane.size for plane in sample])
        hidden = np.maximum(p["fc1.weight"] @ squeezed + p["fc1.bias"], 0)
        s_g = p["fc2.weight"] @ hidden + p["fc2.bias"]
        local = np.maximum(convolve(sample, p["local.0.weight"], p["local.0.bias"]), 0)
        if form == "code":
            s_g = np.maximum(s_g, 0)
            local = np.maximum(convolve(local, p["local.2.weight"], p["local.2.bias"]), 0)
        last = "local.4" if form == "code" else "local.2"
        s_l = convolve(local, p[f"{last}.weight"], p[f"{last}.bias"])
        assert s_l.shape == (1, 5, 4)
        for c, i, j in np.ndindex(sample.shape):
            where, what = s_l[0, i, j], s_g[c]
            logit = p["a"][c] * (what + where) + p["m"][c] * (what * where)
            expected[b, c, i, j] = sample[c, i, j] * (math.tanh(logit) if form == "paper" else sigmoid(logit))
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-11)


def test_the_gate_has_both_signs_and_in_the_codes_form_one() -> None:
    x = maps(2, 20, 5, 4)
    gate = build("gala", 20).gate(x)
    assert gate.shape == x.shape
    assert gate.abs().max() < 1
    assert gate.min() < 0 < gate.max()
    gate = build("gala", 20, form="code").gate(x)
    assert ((gate > 0) & (gate < 1)).all()


def test_all_that_the_gate_knows_of_a_position_is_one_number() -> None:
    """Without the multiplication, logits are a sum of a number per channel and one per position."""
    module, x = build("gala", 20).double(), 0.5 * maps(2, 20, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        module.a.fill_(1)
        module.m.zero_()
    # The inverse of tanh loses digits as the gate nears 1, e to the power of twice the logit of them.
    logits = module.gate(x).atanh()
    sums = logits.mean(1, keepdim=True) + logits.mean((2, 3), keepdim=True) - logits.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(logits, sums, rtol=1e-6, atol=1e-8)
    assert logits.std((2, 3)).min() > 0.01
    assert logits.std(1).min() > 0.01


def test_in_the_papers_form_positions_move_with_their_pixels() -> None:
    module, x = build("gala", 20), maps(2, 20, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    mixed = x.flatten(2)[:, :, order].unflatten(2, (5, 4))
    torch.testing.assert_close(module(mixed).flatten(2), module(x).flatten(2)[:, :, order])
    code = build("gala", 20, form="code")
    assert not torch.allclose(code(mixed).flatten(2), code(x).flatten(2)[:, :, order])


@pytest.mark.parametrize(("channels", "width"), [(64, 16), (6, 1), (2, 1)])
@pytest.mark.parametrize("form", ["paper", "code"])
def test_has_the_parameters_of_its_layers(form: str, channels: int, width: int) -> None:
    perceptron = 2 * channels * width + width + channels
    local = channels * width + width + width + 1 + (25 * width**2 + width if form == "code" else 0)
    count = sum(p.numel() for p in GlobalAndLocalAttention(channels, form=form).parameters())
    assert count == perceptron + local + 2 * channels


def test_both_scales_start_from_a_cut_normal_distribution() -> None:
    module = GlobalAndLocalAttention(4096, reduction=1024)
    for scale in (module.a, module.m):
        assert scale.abs().max() <= 2
        # Cut at 2, a standard normal distribution keeps a standard deviation of 0.88.
        assert 0.8 < scale.std() < 0.95
        assert scale.mean().abs() < 0.1
    assert not torch.equal(module.a, module.m)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_sizes_below_one_are_errors(value: object) -> None:
    with pytest.raises(UsageError, match=r"`reduction` \(=.*\) must be an integer of at least 1"):
        GlobalAndLocalAttention(8, reduction=value)
    with pytest.raises(UsageError, match=r"`channels` \(=.*\) must be an integer of at least 1"):
        GlobalAndLocalAttention(value)


def test_an_unknown_form_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"`form` \(='papr'\) must be one of .*did you mean 'paper'"):
        GlobalAndLocalAttention(8, form="papr")
