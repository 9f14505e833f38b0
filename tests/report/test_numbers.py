"""How numbers are written, at the places where a format turns over."""

from __future__ import annotations

import pytest

from saccade.report import numbers


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "–"), (0, "0"), (999, "999"), (1000, "1.00 k"), (77_754, "77.8 k"), (212_714, "213 k"), (999_949, "1.00 M"),
     (2_100_000, "2.10 M"), (4_089_184_256, "4.09 G")],
)  # fmt: skip
def test_count(number, text):
    assert numbers.count(number).replace(numbers.SPACE, " ") == text


@pytest.mark.parametrize(
    ("fraction", "text"), [(None, "–"), (-0.0061, "−0.61"), (0.0002, "+0.02"), (0.0, "0.00"), (-0.00001, "0.00")]
)
def test_points(fraction, text):
    assert numbers.points(fraction) == text


@pytest.mark.parametrize(
    ("p", "text"),
    [(None, "–"), (0.00099, "<0.001"), (0.001, "0.0010"), (0.0093, "0.0093"), (0.9, "0.90"), (1.0, "1.0")],
)
def test_p_value(p, text):
    assert numbers.p_value(p) == text


@pytest.mark.parametrize(("ms", "text"), [(None, "not measured"), (0.9, "0.90"), (9.994, "9.99"), (31.04, "31.0")])
def test_milliseconds(ms, text):
    assert numbers.milliseconds(ms) == text


@pytest.mark.parametrize(
    ("low", "high", "text"), [(-0.0097, 0.0025, "[−0.97, +0.25]"), (None, 0.1, ""), (0.1, None, "")]
)
def test_interval(low, high, text):
    assert numbers.interval(low, high).replace(numbers.SPACE, " ") == text


@pytest.mark.parametrize(("ours", "theirs", "text"), [(36.0, 31.0, "×1.16"), (None, 31.0, ""), (36.0, None, "")])
def test_times(ours, theirs, text):
    assert numbers.times(ours, theirs) == text
