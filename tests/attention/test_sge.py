"""Spatial group-wise enhance against its equations in plain numpy, and maps without a deviation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.sge import SpatialGroupEnhance
from saccade.errors import UsageError


@pytest.mark.parametrize(("channels", "groups"), [(12, 3), (12, 12), (12, 1), (20, None)])
@pytest.mark.parametrize("size", [(5, 4), (1, 1)], ids=str)
def test_equals_the_papers_equations(channels: int, groups: int | None, size: tuple[int, int]) -> None:
    module = build("sge", channels, groups=groups).double()
    x = maps(2, channels, *size, dtype=torch.float64)
    gamma, beta = (module.get_parameter(key).detach().numpy() for key in ("weight", "bias"))
    width = channels // len(gamma)
    expected = np.empty(x.shape)
    for b, g in np.ndindex(2, len(gamma)):
        group = x[b, g * width : (g + 1) * width].numpy()
        mean = [plane.sum() / plane.size for plane in group]
        c = np.array(
            [[sum(mean[k] * group[k, i, j] for k in range(width)) for j in range(size[1])] for i in range(size[0])]
        )
        centred = c - c.sum() / c.size
        deviation = np.sqrt((centred**2).sum() / max(c.size - 1, 1))
        a = gamma[g] * centred / (deviation + 1e-5) + beta[g]
        expected[b, g * width : (g + 1) * width] = sigmoid(a) * group
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 64), (512, 64), (2048, 64), (96, 48), (20, 20), (8, 8), (1, 1), (67, 1)]
)
def test_groups_are_the_papers_or_the_largest_divisor_below(channels: int, groups: int) -> None:
    module = SpatialGroupEnhance(channels)
    assert module.groups == groups
    assert sum(p.numel() for p in module.parameters()) == 2 * groups


def test_starts_as_the_authors_do() -> None:
    module = SpatialGroupEnhance(20)
    assert not module.weight.any()
    assert (module.bias == 1).all()
    assert not module.starts_as_identity
    x = maps(2, 20, 5, 4)
    torch.testing.assert_close(module(x), x * sigmoid(np.array(1.0)).item())


def test_the_gate_is_the_same_for_the_channels_of_a_group() -> None:
    module, x = build("sge", 20, groups=5), maps(2, 20, 5, 4)
    gate = module.gate(x)
    assert gate.shape == x.shape
    assert ((gate > 0) & (gate < 1)).all()
    assert torch.equal(gate, module.spatial_map(x).repeat_interleave(4, dim=1))
    assert module.spatial_map(x).shape == (2, 5, 5, 4)
    assert torch.equal(module(x), x * gate)


def test_groups_do_not_see_each_other() -> None:
    module, x = build("sge", 20, groups=5), maps(2, 20, 5, 4)
    changed = x.clone()
    changed[:, 7] = 0
    assert (module.spatial_map(changed) != module.spatial_map(x)).flatten(2).any(2).tolist() == 2 * [
        [False, True, False, False, False]
    ]


def test_a_permutation_of_positions_permutes_the_gate() -> None:
    module, x = build("sge", 20, groups=5), maps(2, 20, 5, 4)
    torch.testing.assert_close(module.gate(x.flip(2).transpose(2, 3)), module.gate(x).flip(2).transpose(2, 3))


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("size", [(5, 4), (1, 1)], ids=str)
def test_a_map_without_deviation_has_finite_gradients(size: tuple[int, int], value: float) -> None:
    module = build("sge", 8, groups=2).double()
    x = torch.full((2, 8, *size), value, dtype=torch.float64, requires_grad=True)
    out = module(x)
    weights = module.bias.sigmoid().repeat_interleave(4)[:, None, None]
    torch.testing.assert_close(out, x * weights)
    out.sum().backward()
    torch.testing.assert_close(x.grad, weights.expand_as(x))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_statistics_of_a_bfloat16_map_are_those_of_its_values() -> None:
    module = build("sge", 8, groups=2).bfloat16()
    x = 20 + maps(2, 8, 14, 14, dtype=torch.bfloat16)
    exact = copy.deepcopy(module).double()(x.double())
    out = module(x)
    assert out.dtype is torch.bfloat16
    # The gate is rounded to bfloat16, and so is its product with x: by at most 2^-8 each, 0.0078 in all.
    assert ((out.double() - exact).abs() / exact.abs()).max() < 0.008


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, r"`groups` \(=3\) must divide `channels` \(=8\)"),
        ({"groups": 16}, r"`groups` \(=16\) must divide `channels` \(=8\)"),
        ({"groups": 0}, r"`groups` \(=0\) must be an integer of at least 1"),
    ],
)
def test_wrong_groups_are_errors(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SpatialGroupEnhance(8, **options)


def test_no_channels_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"`channels` \(=0\) must be an integer of at least 1"):
        SpatialGroupEnhance(0)
