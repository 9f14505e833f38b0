"""The parts of the charts that are arithmetic, and the two promises of every SVG: it adapts, and it holds text only."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.builders import one_of_each, results, variant
from saccade.report import plots
from saccade.report.figures import figures

HOSTILE = "<script>alert(1)</script>\" onload='x' &amp; {{ 7 * 7 }}"


@given(st.floats(1.0, 1e12), st.floats(1.3, 1e4))
def test_log_ticks_lie_within_the_range_and_stay_few(low, ratio):
    ticks = plots.log_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 6
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert ticks == sorted(ticks)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_whole_ticks_lie_within_the_range_and_stay_few(first, length):
    ticks = plots.whole_ticks(first, first + length)
    assert 1 <= len(ticks) <= 6
    assert all(first <= tick <= first + length for tick in ticks)


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (100, 100), (101, 51), (300, 101)])
def test_thinned_keeps_the_first_and_the_last_epoch(count, kept):
    epochs = list(range(1, count + 1))
    thin = plots.thinned(epochs)
    assert len(thin) == kept
    assert (thin[0], thin[-1]) == (1, count)


def test_padded_gives_room_also_where_all_values_are_equal():
    assert plots.padded([85.0, 85.0]) == pytest.approx((84.95, 85.05))
    assert plots.padded([0.0, 100.0]) == pytest.approx((-8.0, 108.0))


def test_every_colour_comes_from_the_page():
    svgs = [panel.svg for figure in figures(one_of_each()) for panel in figure.panels]
    assert len(svgs) == 10, "differences, trials, four costs, four curves"
    for svg in svgs:
        painted = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg))
        assert "currentColor" in painted
        assert {p for p in painted if p not in ("none", "currentColor") and not p.startswith("var(--")} == set()


def test_users_text_is_text_in_an_svg():
    hostile = variant("x", "helps", label=HOSTILE)
    for figure in figures(results(hostile)):
        for panel in figure.panels:
            tree = ET.fromstring(panel.svg)
            tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
            assert tags <= {"svg", "g", "path", "text", "line", "rect", "defs", "clipPath", "title"}
            assert not [name for element in tree.iter() for name in element.attrib if name.startswith("on")]
    first = ET.fromstring(figures(results(hostile))[0].panels[0].svg)
    assert HOSTILE in first.attrib["aria-label"]
    assert "<script>alert(1)" in "".join(first.itertext())


def test_charts_take_results_without_costs_curves_or_intervals():
    bare = {"latency_ms": None, "train_step_ms": None, "curves": []}
    given = results(variants=[variant("none", **bare), variant("se", **bare)])
    made = figures(given)
    assert [figure.title for figure in made] == ["Every trial", "Accuracy in % against cost"]
    assert len(made[1].panels) == 2
    assert "Not measured: latency, training step and memory." in made[1].caption


def test_a_caption_gives_the_numbers():
    captions = [figure.caption for figure in figures(one_of_each())]
    assert captions[0] == (
        "Mean differences to the baseline go from −0.61 points (se) to +1.23 (simam); "
        "each line is a 95 % interval, and the shaded band is the margin of ±0.5 points."
    )
    assert "dearest is gam: 9.00\u00a0M MACs, ×4.29 the baseline's" in captions[2]


def test_the_front_holds_what_nothing_beats_in_both():
    rows = [{"cost": c, "accuracy": a} for c, a in ((3, 80), (1, 70), (2, 69), (2, 75), (4, 80), (5, 90), (1, 60))]
    front = [(row["cost"], row["accuracy"]) for row in plots.pareto(rows)]
    assert front == [(1, 70), (2, 75), (3, 80), (5, 90)]
