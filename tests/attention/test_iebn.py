"""Instance enhancement batch normalisation against its equations in plain numpy, and beside BatchNorm."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from attention.builders import build, maps, randomise, sigmoid
from saccade.attention.iebn import InstanceEnhancementBatchNorm2d
from saccade.errors import UsageError


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("eps", "momentum"), [(1e-5, 0.1), (1e-2, 0.3)])
def test_equals_the_papers_equations(mode: str, eps: float, momentum: float) -> None:
    module = build("iebn", 6, eps=eps, momentum=momentum).double().train(mode == "train")
    x = maps(3, 6, 5, 4, dtype=torch.float64)
    state = {key: value.numpy().copy() for key, value in module.state_dict().items()}
    out = module(x).detach().numpy()
    expected = np.empty(x.shape)
    for c in range(6):
        values = x[:, c].numpy()
        count = values.size
        mean = values.sum() / count
        var = ((values - mean) ** 2).sum() / count
        if mode == "train":
            for key, new in {"running_mean": mean, "running_var": var * count / (count - 1)}.items():
                updated = (1 - momentum) * state[key][c] + momentum * new
                assert module.state_dict()[key][c].item() == pytest.approx(updated, rel=1e-12)
        else:
            mean, var = state["running_mean"][c], state["running_var"][c]
        for b, plane in enumerate(values):
            gate = sigmoid(state["gate_weight"][c] * plane.sum() / plane.size + state["gate_bias"][c])
            normalised = (plane - mean) / np.sqrt(var + eps)
            expected[b, c] = normalised * (state["weight"][c] * gate) + state["bias"][c]
    np.testing.assert_allclose(out, expected, rtol=1e-10)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_starts_as_a_batch_norm_with_its_scale_at_sigmoid_of_minus_one(mode: str) -> None:
    module, norm = InstanceEnhancementBatchNorm2d(8), nn.BatchNorm2d(8)
    x = maps(3, 8, 5, 4)
    module.train(mode == "train")
    norm.train(mode == "train")
    torch.testing.assert_close(module(x), norm(x) * sigmoid(np.array(-1.0)).item())


def test_the_gate_looks_at_the_input_before_it_is_normalised() -> None:
    """BatchNorm in train mode does not see a shift of its input; the gate does, and moves nothing but the scale."""
    module, x = build("iebn", 8).double().train(), maps(3, 8, 5, 4, dtype=torch.float64)
    out, shifted = module(x), module(x + 2)
    bias = module.bias[:, None, None]
    ratio = (shifted - bias) / (out - bias)
    expected = module.gate(x + 2) / module.gate(x)
    torch.testing.assert_close(ratio, expected.expand_as(ratio), rtol=1e-9, atol=1e-10)
    assert (expected - 1).abs().max() > 0.1


def test_the_gate_is_one_number_between_zero_and_one_per_channel() -> None:
    gate = build("iebn", 20).gate(maps(2, 20, 5, 4))
    assert gate.shape == (2, 20, 1, 1)
    assert ((gate > 0) & (gate < 1)).all()


def test_has_two_more_parameters_per_channel_than_batch_norm_and_is_one() -> None:
    module = InstanceEnhancementBatchNorm2d(32)
    assert sum(p.numel() for p in module.parameters()) == 4 * 32
    assert isinstance(module, nn.BatchNorm2d)
    assert set(nn.BatchNorm2d(32).state_dict()) < set(module.state_dict())


def test_one_value_per_channel_uses_and_keeps_the_running_statistics() -> None:
    module, x = build("iebn", 6).train(), maps(1, 6, 1, 1)
    before = copy.deepcopy(module.state_dict())
    out = module(x)
    torch.testing.assert_close(out, module.eval()(x))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("momentum", [0.05, None])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_in_a_norms_place_it_is_that_norm_times_the_gate(mode: str, momentum: float | None) -> None:
    norm = randomise(nn.BatchNorm2d(8, eps=1e-3, momentum=momentum)).double().train(mode == "train")
    x = maps(3, 8, 5, 4, dtype=torch.float64)
    nn.BatchNorm2d.forward(norm, x)
    module = InstanceEnhancementBatchNorm2d.from_norm(norm)
    assert module.training is norm.training
    assert module.weight.dtype is torch.float64
    bias = norm.bias[:, None, None]
    torch.testing.assert_close(module(x) - bias, (norm(x) - bias) * sigmoid(np.array(-1.0)).item())
    for key, value in norm.state_dict().items():
        assert torch.equal(module.state_dict()[key], value), key


def test_what_a_norm_has_frozen_stays_frozen_and_is_not_shared() -> None:
    norm = nn.BatchNorm2d(4)
    norm.weight.requires_grad_(False)
    module = InstanceEnhancementBatchNorm2d.from_norm(norm)
    assert [key for key, p in module.named_parameters() if not p.requires_grad] == ["weight"]
    with torch.no_grad():
        module.weight.add_(1)
    module(maps(2, 4, 3, 3))
    assert (norm.weight == 1).all()
    assert not norm.running_mean.any()


def test_reset_gives_the_first_state_again() -> None:
    module = randomise(InstanceEnhancementBatchNorm2d(5))
    module.reset_parameters()
    fresh = InstanceEnhancementBatchNorm2d(5).state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in module.state_dict().items())
    assert (module.gate_bias == -1).all()
    assert not module.gate_weight.any()


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4)], ids=str
)
def test_a_norm_whose_place_it_cannot_take_is_an_error(norm: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"can take the place of an nn\.BatchNorm2d with affine=True and"):
        InstanceEnhancementBatchNorm2d.from_norm(norm)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, r"`channels` \(=0\) must be an integer of at least 1"),
        ({"eps": -1e-5}, r"`eps` \(=-1e-05\) must be a number from 0 to 1"),
        ({"momentum": 2}, r"`momentum` \(=2\) must be a number from 0 to 1"),
    ],
)
def test_wrong_arguments_are_errors(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        InstanceEnhancementBatchNorm2d(**({"channels": 4} | arguments))
