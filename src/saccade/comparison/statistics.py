"""From scores to verdicts: paired differences over seeds.

All variants of a seed see the same batches and start from the same host weights, so the difference variant - baseline
is taken seed by seed. Its 95 % interval and p are those of the paired t test (``scipy.stats.ttest_rel``): they assume
that the differences of the seeds are independent and about normal, and they speak of this recipe on this test set. Each
variant has its own interval; they are not corrected for the number of variants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from saccade.report.results import HELPS, HURTS, NO_DIFFERENCE, TOO_FEW, Difference

CONFIDENCE = 0.95
MOST_SEEDS = 1000


def paired_difference(scores: Sequence[float | None], baseline: Sequence[float | None]) -> Difference | None:
    """Variant minus baseline over the seeds that both have; None where there is no such seed.

    With one seed, or where all differences are equal, there is no variance to judge by: interval and p are None.
    """
    pairs = _pairs(scores, baseline)
    if not pairs:
        return None
    ours, theirs = np.array(pairs).T
    mean = float((ours - theirs).mean())
    if _has_no_spread(ours - theirs):
        return Difference(mean=mean, low=None, high=None, p=None)
    test = stats.ttest_rel(ours, theirs)
    interval = test.confidence_interval(CONFIDENCE)
    return Difference(mean=mean, low=float(interval.low), high=float(interval.high), p=float(test.pvalue))


def verdict(difference: Difference | None, margin: float) -> str:
    """The verdict that follows from an interval and the margin, in points.

    ``helps`` or ``hurts`` where the interval excludes 0, ``no difference shown`` where it lies within +- margin, else
    ``too few runs``.
    """
    if difference is None or difference.low is None or difference.high is None:
        return TOO_FEW
    if difference.low > 0:
        return HELPS
    if difference.high < 0:
        return HURTS
    bound = margin / 100
    return NO_DIFFERENCE if -bound <= difference.low and difference.high <= bound else TOO_FEW


def seeds_to_decide(scores: Sequence[float | None], baseline: Sequence[float | None], margin: float) -> int | None:
    """How many seeds would give a verdict if mean and spread of the differences stayed as they are.

    An estimate from few runs, and as uncertain as they are. None where no number up to 1,000 would do, or where there
    is no spread to extrapolate.
    """
    pairs = _pairs(scores, baseline)
    differences = np.array([ours - theirs for ours, theirs in pairs])
    if _has_no_spread(differences):
        return None
    mean, deviation = abs(float(differences.mean())), float(differences.std(ddof=1))
    for seeds in range(len(pairs) + 1, MOST_SEEDS + 1):
        half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1)) * deviation / math.sqrt(seeds)
        if half_width < mean or mean + half_width <= margin / 100:
            return seeds
    return None


def _pairs(scores: Sequence[float | None], baseline: Sequence[float | None]) -> list[tuple[float, float]]:
    return [(a, b) for a, b in zip(scores, baseline, strict=True) if a is not None and b is not None]


def _has_no_spread(differences: np.ndarray) -> bool:
    # Rounding leaves some 1e-17 between equal differences of scores.
    return len(differences) < 2 or float(np.ptp(differences)) < 1e-12
