"""Coordinate attention against its equations in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.coord import CoordinateAttention
from saccade.errors import UsageError


def h_swish(u: float) -> float:
    return u * min(max(u + 3, 0), 6) / 6


@pytest.mark.parametrize("channels", [6, 20])
def test_equals_the_papers_equations(channels: int) -> None:
    module, x = build("coord", channels, min_width=3).double(), maps(2, channels, 5, 4, dtype=torch.float64)
    p = {key: value.numpy() for key, value in module.state_dict().items()}

    def hidden(mean: np.ndarray) -> np.ndarray:
        u = p["reduce.weight"][:, :, 0, 0] @ mean + p["reduce.bias"]
        u = (u - p["norm.running_mean"]) / np.sqrt(p["norm.running_var"] + 1e-5) * p["norm.weight"] + p["norm.bias"]
        return np.array([h_swish(value) for value in u])

    def gate(mean: np.ndarray, layer: str) -> np.ndarray:
        return sigmoid(p[f"{layer}.weight"][:, :, 0, 0] @ hidden(mean) + p[f"{layer}.bias"])

    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        rows = [gate(sample[:, i].sum(1) / 4, "rows") for i in range(5)]
        columns = [gate(sample[:, :, j].sum(1) / 5, "columns") for j in range(4)]
        for i, j in np.ndindex(5, 4):
            expected[b, :, i, j] = sample[:, i, j] * rows[i] * columns[j]
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-11)


@pytest.mark.parametrize("size", [(5, 4), (1, 1), (1, 7)], ids=str)
def test_rows_and_columns_share_the_statistics_of_a_training_step(size: tuple[int, int]) -> None:
    module, x = build("coord", 6).double().train(), maps(3, 6, *size, dtype=torch.float64)
    height, width = size
    before = module.norm.running_mean.clone()
    total = torch.zeros(8, dtype=torch.float64)
    for sample in x:
        means = [sample[:, i].mean(1) for i in range(height)] + [sample[:, :, j].mean(1) for j in range(width)]
        total += sum(module.reduce.weight[:, :, 0, 0] @ mean + module.reduce.bias for mean in means).detach()
    module(x)
    torch.testing.assert_close(module.norm.running_mean, 0.9 * before + 0.1 * total / (3 * (height + width)))


@pytest.mark.parametrize(
    ("channels", "reduction", "min_width", "width"),
    [(512, 32, 8, 16), (64, 32, 8, 8), (3, 32, 8, 8), (64, 4, 8, 16), (64, 32, 1, 2), (20, 32, 1, 1)],
)
def test_hidden_width_and_number_of_parameters(channels: int, reduction: int, min_width: int, width: int) -> None:
    module = CoordinateAttention(channels, reduction=reduction, min_width=min_width)
    assert module.reduce.weight.shape == (width, channels, 1, 1)
    assert sum(p.numel() for p in module.parameters()) == 3 * channels * width + width + 2 * channels + 2 * width


def test_default_width_is_the_authors() -> None:
    assert CoordinateAttention(512).reduce.out_channels == 16
    assert CoordinateAttention(96).reduce.out_channels == 8


def test_the_gate_is_a_product_of_one_for_rows_and_one_for_columns() -> None:
    module, x = build("coord", 20), maps(2, 20, 5, 4)
    rows, columns = module.gates(x)
    assert rows.shape == (2, 20, 5, 1)
    assert columns.shape == (2, 20, 1, 4)
    for gate in (rows, columns):
        assert ((gate > 0) & (gate < 1)).all()
    torch.testing.assert_close(module.gate(x), rows * columns)
    torch.testing.assert_close(module(x), x * module.gate(x))


def test_moving_rows_or_columns_moves_their_gates_alone() -> None:
    """Positions enter by their means alone: rows in another order have the same gates in that order."""
    module, x = build("coord", 20), maps(2, 20, 5, 4)
    order = torch.tensor([3, 0, 4, 2, 1])
    rows, columns = module.gates(x)
    moved_rows, same_columns = module.gates(x[:, :, order])
    torch.testing.assert_close(moved_rows, rows[:, :, order])
    torch.testing.assert_close(same_columns, columns)


@pytest.mark.parametrize("option", ["reduction", "min_width"])
def test_sizes_below_one_are_errors(option: str) -> None:
    with pytest.raises(UsageError, match=rf"`{option}` \(=0\) must be an integer of at least 1"):
        CoordinateAttention(8, **{option: 0})
