"""Switchable excitation against the authors' computation in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.sem import SwitchableExcitation, eca_kernel_size
from saccade.errors import UsageError


def slide(sequence: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The kernel slid over a sequence with zeros around it, without flipping it."""
    half = len(kernel) // 2
    out = np.zeros_like(sequence)
    for c in range(len(sequence)):
        for t, weight in enumerate(kernel):
            if 0 <= c + t - half < len(sequence):
                out[c] += weight * sequence[c + t - half]
    return out


@pytest.mark.parametrize("channels", [8, 20, 64])
def test_equals_the_authors_computation(channels: int) -> None:
    module, x = build("sem", channels, reduction=4).double(), maps(2, channels, 5, 4, dtype=torch.float64)
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        m = np.array([plane.sum() / plane.size for plane in sample])
        decision = sigmoid(p["decision.weight"] @ m + p["decision.bias"])
        hidden = np.maximum(p["fc1.weight"] @ m + p["fc1.bias"], 0)
        operators = (
            p["fc2.weight"] @ hidden + p["fc2.bias"],
            slide(m, p["conv.weight"][0, 0]),
            p["gamma"] * m + p["beta"],
        )
        weights = np.prod([sigmoid(decision[n] * u) for n, u in enumerate(operators)], axis=0)
        for c, plane in enumerate(sample):
            expected[b, c] = weights[c] * plane
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("channels", "size"), [(1, 1), (2, 1), (8, 3), (16, 3), (64, 3), (128, 5), (256, 5), (2048, 7)]
)
def test_kernel_size_follows_efficient_channel_attention(channels: int, size: int) -> None:
    assert eca_kernel_size(channels) == size
    assert SwitchableExcitation(channels).conv.weight.shape == (1, 1, size)


def test_starts_as_the_authors_do() -> None:
    module = SwitchableExcitation(64)
    assert not module.gamma.any()
    assert (module.beta == -1).all()
    # Two operators near 0, one at -1 and weights near a half: about 0.5 * 0.5 * sigmoid(-0.5).
    gate = module.gate(maps(4, 64, 5, 4))
    assert gate.min() > 0.06
    assert gate.max() < 0.13


def test_the_gate_is_one_number_between_zero_and_one_per_channel() -> None:
    module, x = build("sem", 20), maps(2, 20, 5, 4)
    gate = module.gate(x)
    assert gate.shape == (2, 20, 1, 1)
    assert ((gate > 0) & (gate < 1)).all()
    torch.testing.assert_close(module(x), x * gate)


@pytest.mark.parametrize("operator", [0, 1, 2])
def test_every_operator_has_its_own_switch(operator: int) -> None:
    """A decision that closes an operator makes its factor one half, whatever the operator says."""
    module, x = build("sem", 20, reduction=4), maps(2, 20, 5, 4)
    with torch.no_grad():
        module.decision.bias[operator] = -100
    before = module.gate(x)
    changed = ([module.fc2.bias], [module.conv.weight], [module.beta])
    for number, parameters in enumerate(changed):
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(1)
        assert torch.equal(module.gate(x), before) is (number == operator)
        before = module.gate(x)


@pytest.mark.parametrize("channels", [64, 128, 256])
def test_has_the_parameters_of_the_authors_block(channels: int) -> None:
    hidden, kernel = channels // 16, eca_kernel_size(channels)
    expected = (3 * channels + 3) + (2 * channels * hidden + hidden + channels) + kernel + 2 * channels
    assert sum(p.numel() for p in SwitchableExcitation(channels).parameters()) == expected


def test_reduction_below_one_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"`reduction` \(=0\) must be an integer of at least 1"):
        SwitchableExcitation(8, reduction=0)
