"""SimAM against its equations in plain numpy, where 16 bits are too few, and where there is no variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.simam import SimAM
from saccade.errors import UsageError


@pytest.mark.parametrize("lam", [1e-4, 0.1])
@pytest.mark.parametrize("size", [(5, 4), (1, 6), (1, 2), (1, 1)], ids=str)
def test_equals_the_papers_equations(size: tuple[int, int], lam: float) -> None:
    """In the paper's form: the energy's minimum 4 (v + lam) / (d + 2 v + 2 lam), then its inverse."""
    module, x = build("simam", 3, lam=lam), maps(2, 3, *size, dtype=torch.float64)
    expected = np.empty(x.shape)
    for b, c in np.ndindex(2, 3):
        plane = x[b, c].numpy()
        mean = plane.sum() / plane.size
        variance = sum((value - mean) ** 2 for value in plane.flat) / max(plane.size - 1, 1)
        for i, j in np.ndindex(*size):
            energy = 4 * (variance + lam) / ((plane[i, j] - mean) ** 2 + 2 * variance + 2 * lam)
            expected[b, c, i, j] = sigmoid(1 / energy) * plane[i, j]
    np.testing.assert_allclose(module(x).numpy(), expected, rtol=1e-12)


def test_default_lam_is_that_of_the_authors_module() -> None:
    assert SimAM(8).lam == 1e-4


def test_has_neither_parameters_nor_buffers() -> None:
    assert not SimAM(8).state_dict()


def test_the_gate_is_least_at_the_mean_and_grows_away_from_it() -> None:
    x = maps(2, 8, 7, 5)
    gate = SimAM(8).gate(x)
    assert gate.shape == x.shape
    assert gate.min() >= sigmoid(np.array(0.5)) - 1e-6
    assert gate.max() < 1
    distance = (x - x.mean(dim=(2, 3), keepdim=True)).abs().flatten(2)
    assert torch.equal(distance.argsort(dim=2), gate.flatten(2).argsort(dim=2))
    torch.testing.assert_close(SimAM(8)(x), x * gate)


def test_a_permutation_of_positions_or_channels_permutes_the_gate() -> None:
    x = maps(2, 8, 7, 5)
    gate = SimAM(8).gate(x)
    torch.testing.assert_close(SimAM(8).gate(x.flip(1)), gate.flip(1))
    torch.testing.assert_close(SimAM(8).gate(x.flip(2).transpose(2, 3)), gate.flip(2).transpose(2, 3))


def test_a_shift_of_a_map_does_not_change_the_gate() -> None:
    x = maps(2, 8, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(SimAM(8).gate(x + 3), SimAM(8).gate(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_16_bit_maps_are_those_of_their_values(dtype: torch.dtype) -> None:
    # A mean that is large beside the deviation, and deviations whose squares 16 bits cannot hold.
    for x in (20 + maps(2, 8, 14, 14, dtype=dtype), 1e-2 * maps(2, 8, 14, 14, dtype=dtype)):
        exact = SimAM(8)(x.double())
        out = SimAM(8)(x)
        assert out.dtype is dtype
        limits = torch.finfo(dtype)
        torch.testing.assert_close(out.double(), exact, rtol=2 * limits.eps, atol=limits.smallest_normal)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_constant_map_is_scaled_by_one_number_and_trains(value: float) -> None:
    x = torch.full((2, 8, 7, 5), value, requires_grad=True)
    out = SimAM(8)(x)
    torch.testing.assert_close(out, x * (1 / (1 + math.exp(-0.5))))
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / (1 + math.exp(-0.5))))


def test_one_graph_computes_the_same_with_the_same_gradient() -> None:
    torch.compiler.reset()
    module = SimAM(8)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    leaves = [maps(2, 8, 5, 4).requires_grad_() for _ in range(2)]
    outs = [module(leaves[0]), compiled(leaves[1])]
    torch.testing.assert_close(outs[0], outs[1])
    for out in outs:
        out.square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


@pytest.mark.parametrize("lam", [0, -1.0, math.nan])
def test_a_lam_that_is_not_positive_is_an_error(lam: float) -> None:
    with pytest.raises(UsageError, match=r"`lam` \(=.*\) must be a number of at least 1e-12, and finite"):
        SimAM(8, lam=lam)


def test_no_channels_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"`channels` \(=0\) must be an integer of at least 1"):
        SimAM(0)
