"""Squeeze-and-Excitation against its equations in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.se import SqueezeExcitation
from saccade.errors import UsageError


@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_papers_equations(bias: bool) -> None:
    module, x = build("se", 12, reduction=3, bias=bias).double(), maps(2, 12, 5, 4, dtype=torch.float64)
    state = {key: value.numpy() for key, value in module.state_dict().items()}
    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        squeezed = np.array([plane.sum() / plane.size for plane in sample])
        hidden = np.maximum(state["fc1.weight"] @ squeezed + state.get("fc1.bias", 0), 0)
        weights = sigmoid(state["fc2.weight"] @ hidden + state.get("fc2.bias", 0))
        for c, plane in enumerate(sample):
            expected[b, c] = weights[c] * plane
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("channels", "reduction", "width"), [(64, 16, 4), (20, 16, 1), (8, 16, 1), (1, 16, 1), (12, 1, 12), (10, 3, 3)]
)
def test_hidden_width_is_the_quotient_but_at_least_one(channels: int, reduction: int, width: int) -> None:
    module = SqueezeExcitation(channels, reduction=reduction)
    assert module.fc1.weight.shape == (width, channels)
    assert module.fc2.weight.shape == (channels, width)


def test_the_gate_is_one_number_between_zero_and_one_per_channel() -> None:
    module, x = build("se", 20), maps(2, 20, 5, 4)
    gate = module.gate(x)
    assert gate.shape == (2, 20, 1, 1)
    assert ((gate > 0) & (gate < 1)).all()
    torch.testing.assert_close(module(x), x * gate)


def test_weights_depend_on_the_means_alone() -> None:
    module, x = build("se", 20), maps(2, 20, 5, 4)
    torch.testing.assert_close(module.gate(x.flip(2, 3)), module.gate(x))
    torch.testing.assert_close(module.gate(x.mean((2, 3), keepdim=True)), module.gate(x))


def test_has_no_biases_by_default_as_the_equations() -> None:
    assert [name for name, _ in SqueezeExcitation(64).named_parameters()] == ["fc1.weight", "fc2.weight"]


def test_a_width_of_ones_own_takes_the_place_of_the_quotient() -> None:
    assert SqueezeExcitation(20, width=8).fc1.weight.shape == (8, 20)
    with pytest.raises(UsageError, match=r"`width` \(=21\) must be at most `channels` \(=20\)"):
        SqueezeExcitation(20, width=21)
    with pytest.raises(UsageError, match=r"`width` \(=0\) must be an integer of at least 1"):
        SqueezeExcitation(20, width=0)


def test_has_the_parameters_of_the_paper() -> None:
    count = {bias: sum(p.numel() for p in SqueezeExcitation(256, bias=bias).parameters()) for bias in (False, True)}
    assert count == {False: 2 * 256 * 16, True: 2 * 256 * 16 + 16 + 256}


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_sizes_below_one_are_errors(value: object) -> None:
    with pytest.raises(UsageError, match=r"`reduction` \(=.*\) must be an integer of at least 1"):
        SqueezeExcitation(8, reduction=value)
    with pytest.raises(UsageError, match=r"`channels` \(=.*\) must be an integer of at least 1"):
        SqueezeExcitation(value)
