"""From scores to verdicts: paired differences over seeds.

All variants of a seed see the same batches and start from the same host weights, so the difference variant - baseline
is taken seed by seed. Its interval and p are those of the paired t test (``scipy.stats.ttest_rel``, from
``scipy.special``, which is imported in a third of the time), made simultaneous over the variants by Šidák's inequality:
each of ``k`` intervals covers with probability ``0.95^(1/k)``, so that all of them hold at once in at least 95 % of
comparisons, and p becomes ``1 - (1 - p)^k``. It assumes that the differences of the seeds are independent and about
normal, and nothing about spreads: every variant may be as noisy as it is. Tests that share a variance among the
variants find more with few seeds, but claim too often where one variant is noisier than the rest
(``benchmarks/verdict_rates.py``: up to 18 % of comparisons in which nothing differed). All of it speaks of this recipe
on this test set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from saccade.report.results import HELPS, HURTS, NO_DIFFERENCE, TOO_FEW, Difference, ImageChange

CONFIDENCE = 0.95
MOST_SEEDS = 1000


def paired_difference(
    scores: Sequence[float | None], baseline: Sequence[float | None], variants: int = 1
) -> Difference | None:
    """Variant minus baseline over the seeds that both have; None where there is no such seed.

    Interval and p hold at once for as many differences as there are ``variants``. With one seed, or where all
    differences are equal, there is no variance to judge by: interval and p are None.
    """
    from scipy import special

    differences = _differences(scores, baseline)
    if not len(differences):
        return None
    mean = float(differences.mean())
    if _has_no_spread(differences):
        return Difference(mean=mean, low=None, high=None, p=None)
    freedom, error = len(differences) - 1, float(differences.std(ddof=1)) / math.sqrt(len(differences))
    half = float(special.stdtrit(freedom, _quantile(variants))) * error
    alone = 2 * float(special.stdtr(freedom, -abs(mean) / error))
    # 1 - (1 - p)^k, exact also where p is tiny.
    p = -math.expm1(variants * math.log1p(-alone)) if alone < 1 else 1.0
    return Difference(mean=mean, low=mean - half, high=mean + half, p=p)


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


def seeds_to_decide(
    scores: Sequence[float | None], baseline: Sequence[float | None], margin: float, variants: int = 1
) -> int | None:
    """How many seeds would give a verdict if mean and spread of the differences stayed as they are.

    An estimate from few runs, and as uncertain as they are. None where no number up to 1,000 would do, or where there
    is no spread to extrapolate.
    """
    from scipy import special

    differences = _differences(scores, baseline)
    if _has_no_spread(differences):
        return None
    mean, deviation = abs(differences.mean()), differences.std(ddof=1)
    seeds = np.arange(len(differences) + 1, MOST_SEEDS + 1)
    half = special.stdtrit(seeds - 1, _quantile(variants)) * deviation / np.sqrt(seeds)
    enough = seeds[(half < mean) | (mean + half <= margin / 100)]
    return int(enough[0]) if len(enough) else None


def image_change(right: np.ndarray) -> ImageChange:
    """What trained networks do on the test images, from what each names right: (seed, variant or baseline, image).

    The interval is a bootstrap over images (2,000 draws) with the networks as they are. It says nothing of the
    attention: with other seeds other images change, which is why it decides no verdict.
    """
    ours, theirs = right[:, 0], right[:, 1]
    change = (ours.astype(float) - theirs).mean(0)
    rng = np.random.default_rng(0)
    # Resampled by how often each value comes: there are few, and many images.
    values, counts = np.unique(change, return_counts=True)
    drawn = rng.multinomial(len(change), counts / len(change), size=2000) @ values / len(change)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    gained, lost = float((ours & ~theirs).mean()), float((~ours & theirs).mean())
    return ImageChange(gained=gained, lost=lost, low=float(low), high=float(high))


def _quantile(variants: int) -> float:
    """What share of t's distribution lies below the upper end of an interval, where several hold at once."""
    return (1 + CONFIDENCE ** (1 / variants)) / 2


def _differences(scores: Sequence[float | None], baseline: Sequence[float | None]) -> np.ndarray:
    """Of the seeds that both have."""
    return np.array([a - b for a, b in zip(scores, baseline, strict=True) if a is not None and b is not None])


def _has_no_spread(differences: np.ndarray) -> bool:
    # Rounding leaves some 1e-17 between equal differences of scores.
    return len(differences) < 2 or float(np.ptp(differences)) < 1e-12
