"""A table of offsets read at another length: itself, its centre, or a linear interpolation that keeps its ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from saccade.ops import resize_relative_table


def table(size: int, depth: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2 * size - 1, depth, dtype=dtype, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 2, 7, 56])
def test_equal_size_gives_the_table_itself(size: int, dtype: torch.dtype) -> None:
    original = table(size, dtype=dtype)
    resized = resize_relative_table(original, size)
    assert resized.dtype is dtype
    assert torch.equal(resized, original)


@given(size=st.integers(1, 40), fewer=st.integers(1, 39))
def test_smaller_gives_exactly_the_centre_rows(size: int, fewer: int) -> None:
    smaller = max(1, size - fewer)
    original = table(size)
    cut = size - smaller
    assert torch.equal(resize_relative_table(original, smaller), original[cut : len(original) - cut])


@given(size=st.integers(1, 40), more=st.integers(1, 60))
def test_larger_keeps_the_outermost_and_the_centre_rows_exactly(size: int, more: int) -> None:
    original, larger = table(size), size + more
    resized = resize_relative_table(original, larger)
    assert resized.shape == (2 * larger - 1, 3)
    assert torch.equal(resized[0], original[0])
    assert torch.equal(resized[-1], original[-1])
    assert torch.equal(resized[larger - 1], original[size - 1])


@pytest.mark.parametrize(("size", "larger"), [(2, 3), (3, 8), (7, 14), (14, 33)])
def test_larger_is_linear_in_the_offset(size: int, larger: int) -> None:
    original = table(size, dtype=torch.float64)
    offsets = np.arange(1 - larger, larger) * (size - 1) / (larger - 1)
    places = np.arange(1 - size, size)
    expected = np.stack([np.interp(offsets, places, column) for column in original.numpy().T], axis=1)
    # The places are float32: interpolation weights carry its rounding.
    np.testing.assert_allclose(resize_relative_table(original, larger).numpy(), expected, rtol=0, atol=1e-5)


def test_a_table_of_one_row_serves_every_size() -> None:
    one = table(1)
    assert torch.equal(resize_relative_table(one, 4), one.expand(7, 3))


def test_size_one_reads_the_offset_zero() -> None:
    original = table(5)
    assert torch.equal(resize_relative_table(original, 1), original[4:5])


def test_gradients_reach_the_rows_that_are_read() -> None:
    original = table(4).requires_grad_()
    resize_relative_table(original, 3).sum().backward()
    assert original.grad is not None
    assert original.grad[:, 0].tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert torch.autograd.gradcheck(lambda t: resize_relative_table(t, 6), table(4).double().requires_grad_())
