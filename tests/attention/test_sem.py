"""Switchable excitation against the authors' computation in plain numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saccade
from attention.builders import build, maps, sigmoid
from saccade.attention.eca import eca_kernel_size
from saccade.attention.sem import SwitchableExcitation
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


SUBSETS = [("fc",), ("cnn",), ("ie",), ("ie", "fc"), ("cnn", "ie"), ["ie", "cnn", "fc"]]


@pytest.mark.parametrize(
    ("channels", "names"), [(c, ("fc", "cnn", "ie")) for c in (8, 20, 64)] + [(8, names) for names in SUBSETS], ids=str
)
def test_equals_the_authors_computation(channels: int, names: Sequence[str]) -> None:
    module = build("sem", channels, reduction=4, operators=names).double()
    x = maps(2, channels, 5, 4, dtype=torch.float64)
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        m = np.array([plane.sum() / plane.size for plane in sample])
        decision = sigmoid(p["decision.weight"] @ m + p["decision.bias"])
        operators = {}
        if "fc" in names:
            hidden = np.maximum(p["operators.fc.fc1.weight"] @ m + p["operators.fc.fc1.bias"], 0)
            operators["fc"] = p["operators.fc.fc2.weight"] @ hidden + p["operators.fc.fc2.bias"]
        if "cnn" in names:
            operators["cnn"] = slide(m, p["operators.cnn.conv.weight"][0, 0])
        if "ie" in names:
            operators["ie"] = p["operators.ie.gamma"] * m + p["operators.ie.beta"]
        assert len(decision) == len(names)
        weights = np.prod([sigmoid(decision[n] * operators[name]) for n, name in enumerate(names)], axis=0)
        for c, plane in enumerate(sample):
            expected[b, c] = weights[c] * plane
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("channels", "size"), [(1, 1), (2, 1), (8, 3), (16, 3), (64, 3), (128, 5), (256, 5), (2048, 7)]
)
def test_kernel_size_follows_efficient_channel_attention(channels: int, size: int) -> None:
    assert eca_kernel_size(channels) == size
    assert SwitchableExcitation(channels).operators.cnn.conv.weight.shape == (1, 1, size)


def test_starts_as_the_authors_do() -> None:
    module = SwitchableExcitation(64)
    assert not module.operators.ie.gamma.any()
    assert (module.operators.ie.beta == -1).all()
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
    changed = (module.operators.fc.fc2.bias, module.operators.cnn.conv.weight, module.operators.ie.beta)
    for number, parameter in enumerate(changed):
        with torch.no_grad():
            parameter.add_(1)
        assert torch.equal(module.gate(x), before) is (number == operator)
        before = module.gate(x)


@pytest.mark.parametrize("channels", [64, 128, 256])
def test_has_the_parameters_of_the_authors_block(channels: int) -> None:
    hidden, kernel = channels // 16, eca_kernel_size(channels)
    expected = (3 * channels + 3) + (2 * channels * hidden + hidden + channels) + kernel + 2 * channels
    assert sum(p.numel() for p in SwitchableExcitation(channels).parameters()) == expected


class Spread(nn.Module):
    """An operator of one's own: how far a mean is from the mean of all, times a number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, m: Tensor) -> Tensor:
        return self.scale * (m - m.mean(1, keepdim=True))


def test_an_operator_may_be_a_module() -> None:
    own, x = Spread(), maps(2, 8, 5, 4)
    module = build("sem", 8, operators=("ie", own))
    assert "operators.own1.scale" in module.state_dict()
    m = x.mean((2, 3))
    weights = torch.sigmoid(m @ module.decision.weight.T + module.decision.bias)
    ie = module.operators.ie
    expected = torch.sigmoid(weights[:, :1] * (ie.gamma * m + ie.beta)) * torch.sigmoid(weights[:, 1:] * own(m))
    torch.testing.assert_close(module.gate(x)[:, :, 0, 0], expected)
    module(x).square().sum().backward()
    assert own.scale.grad.abs() > 0


def test_a_modules_output_of_another_shape_is_an_error() -> None:
    class Flat(nn.Module):
        def forward(self, m: Tensor) -> Tensor:
            return m.mean(1, keepdim=True)

    module = build("sem", 8, operators=("fc", Flat()))
    with pytest.raises(UsageError, match=r"`operators`: 'own1' must give \(B, C\) = \(B, 8\); it gave \(2, 1\)"):
        module(maps(2, 8, 5, 4))


def test_a_plan_holds_names_and_no_modules() -> None:
    host = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    options = {"operators": ("ie", "cnn")}
    edited = saccade.augment(host, "sem", at="1", options=options, example_input=maps(1, 3, 9, 9))
    assert saccade.plan_of(edited).edits[0].options == {"operators": ["ie", "cnn"]}
    with pytest.raises(UsageError, match=r"`options` .* must be values that JSON can hold"):
        saccade.augment(host, "sem", at="1", options={"operators": (Spread(),)}, example_input=maps(1, 3, 9, 9))


@pytest.mark.parametrize("operators", [(), [], "fc", None, {"fc"}], ids=str)
def test_operators_are_a_tuple_or_list_of_at_least_one(operators: object) -> None:
    with pytest.raises(UsageError, match=r"`operators` .* must be a tuple or list of at least one of"):
        SwitchableExcitation(8, operators=operators)


def test_an_unknown_operator_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"`operators` \(='cn'\) must be one of 'fc', 'cnn', 'ie' .*'cnn'"):
        SwitchableExcitation(8, operators=("fc", "cn"))


def test_an_operator_is_given_once() -> None:
    own = Spread()
    with pytest.raises(UsageError, match=r"`operators` \(=\('ie', 'fc', 'ie'\)\) names one twice"):
        SwitchableExcitation(8, operators=("ie", "fc", "ie"))
    with pytest.raises(UsageError, match="names one twice"):
        SwitchableExcitation(8, operators=(own, "fc", own))


def test_reduction_below_one_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"`reduction` \(=0\) must be an integer of at least 1"):
        SwitchableExcitation(8, reduction=0)
