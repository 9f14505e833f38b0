"""Differences equal scipy's, and verdicts follow from interval and margin."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from saccade.comparison.statistics import image_change, paired_difference, seeds_to_decide, verdict
from saccade.report.results import Difference

BASE = [0.850, 0.846, 0.853, 0.849, 0.851]


def shifted(*points: float) -> list[float]:
    return [score + point / 100 for score, point in zip(BASE, points, strict=True)]


@pytest.mark.parametrize(
    ("scores", "word"),
    [
        (shifted(1.0, 1.2, 0.9, 1.1, 1.0), "helps"),
        (shifted(-1.0, -1.2, -0.9, -1.1, -1.0), "hurts"),
        (shifted(0.1, -0.1, 0.05, -0.05, 0.02), "no difference shown"),
        (shifted(2.0, -1.5, 0.5, 1.0, -1.0), "too few runs"),
    ],
)
def test_made_up_scores_reach_every_verdict(scores, word):
    difference = paired_difference(scores, BASE)
    assert difference is not None
    assert difference.low is not None
    assert verdict(difference, margin=0.5) == word


def test_the_margin_decides_between_no_difference_and_too_few():
    difference = paired_difference(shifted(0.4, -0.3, 0.2, -0.1, 0.3), BASE)
    assert verdict(difference, margin=0.5) == "no difference shown"
    assert verdict(difference, margin=0.1) == "too few runs"


def test_a_difference_smaller_than_the_margin_still_helps_when_it_excludes_zero():
    assert verdict(Difference(mean=0.002, low=0.001, high=0.003, p=0.001), margin=0.5) == "helps"


@pytest.mark.parametrize(("low", "high"), [(-0.005, 0.005), (-0.005, 0.0), (0.0, 0.005)])
def test_an_interval_that_touches_zero_or_the_margin_is_inside(low, high):
    assert verdict(Difference(mean=0, low=low, high=high, p=0.5), margin=0.5) == "no difference shown"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12), st.integers(1, 10))
def test_interval_and_p_are_those_of_the_paired_t_test(pairs, variants):
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    differences = np.array(ours) - np.array(theirs)
    assume(np.ptp(differences) > 1e-6)
    difference = paired_difference(ours, theirs, variants)
    assert difference is not None
    test = stats.ttest_rel(ours, theirs)
    interval = test.confidence_interval(0.95 ** (1 / variants))
    assert difference.mean == pytest.approx(differences.mean(), abs=1e-12)
    assert difference.low == pytest.approx(interval.low, rel=1e-6, abs=1e-9)
    assert difference.high == pytest.approx(interval.high, rel=1e-6, abs=1e-9)
    assert difference.p == pytest.approx(1 - (1 - test.pvalue) ** variants, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("seeds", "variants"), [(3, 4), (5, 2), (10, 10)])
@pytest.mark.parametrize("noisy", [1.0, 3.0])
def test_at_most_one_comparison_in_twenty_claims_what_is_not_so(seeds, variants, noisy):
    # 2,000 comparisons in which nothing differs, the first variant noisier than the rest: the bound is the nominal
    # rate and 1.96 of its binomial deviations.
    rng = np.random.default_rng(seeds)
    spread = np.array([1.0, noisy, *[1.0] * (variants - 1)]) / 100
    claims = 0
    for draw in 0.8 + rng.standard_normal((2000, variants + 1, seeds)) * spread[:, None]:
        words = [verdict(paired_difference(scores, draw[0], variants), margin=0.01) for scores in draw[1:]]
        claims += any(word in {"helps", "hurts"} for word in words)
    assert claims / 2000 <= 0.05 + 1.96 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("scores", "baseline"),
    [([0.9], [0.8]), (shifted(1, 1, 1, 1, 1), BASE), (BASE, BASE), ([0.9, None], [0.8, 0.8])],
    ids=["one seed", "equal differences", "equal scores", "one seed in common"],
)
def test_without_spread_there_is_no_interval_and_too_few_runs(scores, baseline):
    difference = paired_difference(scores, baseline)
    assert difference is not None
    assert (difference.low, difference.high, difference.p) == (None, None, None)
    assert verdict(difference, margin=0.5) == "too few runs"
    assert seeds_to_decide(scores, baseline, margin=0.5) is None


def test_the_change_of_images_is_counted_and_its_interval_is_a_bootstraps():
    # Of 200 images the variant gains 20 and loses 10, with either seed.
    theirs = np.zeros(200, bool)
    theirs[50:] = True
    ours = theirs.copy()
    ours[:20], ours[190:] = True, False
    change = image_change(np.array([[ours, theirs], [ours, theirs]]))
    assert (change.gained, change.lost) == (0.1, 0.05)
    drawn = stats.bootstrap(((ours.astype(float) - theirs),), np.mean, method="percentile", rng=1).confidence_interval
    assert change.low == pytest.approx(drawn.low, abs=0.006)
    assert change.high == pytest.approx(drawn.high, abs=0.006)


def test_failed_trials_leave_their_seeds_out():
    scores = [0.86, None, 0.87, 0.855, None]
    baseline = [0.85, 0.846, None, 0.849, 0.851]
    assert paired_difference(scores, baseline) == paired_difference([0.86, 0.855], [0.85, 0.849])


def test_no_seed_in_common_is_no_difference():
    assert paired_difference([None, 0.9], [0.8, None]) is None
    assert verdict(None, margin=0.5) == "too few runs"


def test_the_seeds_to_decide_would_decide():
    scores = shifted(2.0, -1.5, 0.5, 1.0, -1.0)
    seeds = seeds_to_decide(scores, BASE, margin=0.5)
    assert seeds is not None
    differences = np.array(scores) - np.array(BASE)
    mean, deviation = abs(differences.mean()), differences.std(ddof=1)

    def decided(count: int) -> bool:
        half = stats.t.ppf(0.975, count - 1) * deviation / math.sqrt(count)
        return half < mean or mean + half <= 0.005

    assert decided(seeds)
    assert not any(decided(count) for count in range(len(BASE) + 1, seeds))


def test_no_number_of_seeds_decides_a_mean_at_the_margin_of_nothing():
    scores = shifted(30.0, -30.0, 30.0, -30.0, 0.0)
    assert seeds_to_decide(scores, BASE, margin=0.5) is None
