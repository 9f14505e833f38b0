"""Two-dimensional sinusoids against their formula, one value at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attention.builders import build, maps
from saccade.attention.sine2d import Sine2d
from saccade.errors import UsageError


def encoding(position: int, channel: int, channels: int, base: float) -> float:
    angle = position / base ** (2 * (channel // 2) / channels)
    return math.cos(angle) if channel % 2 else math.sin(angle)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8, 20, 64])
@pytest.mark.parametrize("size", [(7, 5), (1, 6), (1, 1), (2, 40)], ids=str)
@pytest.mark.parametrize("base", [10000.0, 100])
def test_equals_the_formula(channels: int, size: tuple[int, int], base: float) -> None:
    module, x = Sine2d(channels, base=base), maps(2, channels, *size, dtype=torch.float64)
    half = channels - channels // 2
    expected = x.numpy().copy()
    for b, c, i, j in np.ndindex(*x.shape):
        row, place, count = (True, c, half) if c < half else (False, c - half, channels - half)
        expected[b, c, i, j] += encoding(i if row else j, place, count, base)
    np.testing.assert_allclose(module(x).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_the_term_depends_on_the_size_alone() -> None:
    module = build("sine2d", 12)
    term = module.term(maps(3, 12, 6, 5))
    assert term.shape == (1, 12, 6, 5)
    assert torch.equal(module.term(torch.zeros(1, 12, 6, 5)), term)
    # A larger map goes on where a smaller one ends.
    assert torch.equal(module.term(maps(1, 12, 9, 9))[:, :, :6, :5], term)


@pytest.mark.parametrize("channels", [2, 3, 4, 16])
def test_no_two_pixels_have_the_same_term(channels: int) -> None:
    pixels = build("sine2d", channels).term(maps(1, channels, 14, 13))[0].flatten(1)
    distances = (pixels[:, :, None] - pixels[:, None, :]).norm(dim=0) + torch.eye(14 * 13)
    assert distances.min() > 1e-3


def test_moving_by_rows_turns_every_pair_of_channels_by_one_angle() -> None:
    """A sine and its cosine at t + 1 are those at t, rotated: offsets are linear maps of the encoding."""
    term = build("sine2d", 16).double().term(maps(1, 16, 9, 4, dtype=torch.float64))[0, :8]
    sine, cosine = term[::2], term[1::2]
    angle = torch.tensor([10000.0 ** (-k / 4) for k in range(4)], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(sine[:, 1:], sine[:, :-1] * angle.cos() + cosine[:, :-1] * angle.sin())
    torch.testing.assert_close(cosine[:, 1:], cosine[:, :-1] * angle.cos() - sine[:, :-1] * angle.sin())


def test_a_low_precision_map_gets_the_term_rounded_once() -> None:
    module, x = build("sine2d", 8), maps(1, 8, 300, 3)
    assert torch.equal(module.term(x.bfloat16()), module.term(x))
    assert torch.equal(module(torch.zeros_like(x).bfloat16()), module.term(x).bfloat16())


def test_has_no_parameters_and_no_buffers() -> None:
    assert not build("sine2d", 8).state_dict()


@pytest.mark.parametrize("base", [0.5, -1, True, "10"])
def test_a_wrong_base_is_an_error(base: object) -> None:
    with pytest.raises(UsageError, match=r"`base` \(=.*\) must be a number of at least 1, and finite"):
        Sine2d(8, base=base)


def test_channels_below_one_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"`channels` \(=0\) must be an integer of at least 1"):
        Sine2d(0)
