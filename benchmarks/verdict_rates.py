"""How often tests of a comparison claim what is not so, and how often they find what is: the choice of the test.

``uv run python benchmarks/verdict_rates.py`` writes benchmarks/results/verdict_rates.json. Scores are drawn as
``score = variant + seed + noise``; the noise of every variant has its own spread, in the last structure that of the
runs in benchmarks/results/default_compare.json. 2,000 comparisons a cell in which no variant differs give the rate of
any false ``helps`` or ``hurts``; as many in which the first variant is two spreads better give the power.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from common import RESULTS, write_result
from numpy.typing import NDArray
from scipy import integrate, optimize, special, stats

Array = NDArray[np.float64]

LEVEL = 0.05
DRAWS = 2000
SEEDS = (3, 4, 5, 7, 10)
VARIANTS = (1, 2, 4, 7, 10)
EFFECT = 2.0
BLOCK = 0.5
"""Spread of what all variants of a seed share, in spreads of the noise. Every test here removes it."""


def main() -> None:
    """Simulate every cell, and tell which tests keep their word and what power they have."""
    rng = np.random.default_rng(0)
    cells = []
    for structure, spread in structures().items():
        for seeds in SEEDS:
            for variants in VARIANTS:
                noise = spread(variants)
                null, effect = (draw(rng, noise, seeds, first) for first in (0.0, EFFECT))
                for name, test in TESTS.items():
                    false, found = test(null), test(effect)
                    cells.append({
                        "structure": structure, "seeds": seeds, "variants": variants, "test": name,
                        "any_false_claim": float(false.any(1).mean()), "power": float(found[:, 0].mean()),
                    })  # fmt: skip
    bound = LEVEL + 1.96 * float(np.sqrt(LEVEL * (1 - LEVEL) / DRAWS))
    summary = {name: told([cell for cell in cells if cell["test"] == name], bound) for name in TESTS}
    path = write_result(
        "verdict_rates", ("numpy", "scipy"),
        draws=DRAWS, level=LEVEL, bound=round(bound, 4), effect_in_spreads=EFFECT,
        spreads_of_runs=real_spreads().tolist(),
        summary=summary, cells=cells,
    )  # fmt: skip
    print(json.dumps(summary, indent=2), path)


def told(cells: list[dict[str, Any]], bound: float) -> dict[str, Any]:
    """The worst cell of a test, how many break the bound, and its mean power by structure and seeds."""
    worst = max(cells, key=lambda cell: cell["any_false_claim"])
    power = {
        structure: {
            seeds: round(
                float(np.mean([c["power"] for c in cells if (c["structure"], c["seeds"]) == (structure, seeds)])), 3
            )
            for seeds in SEEDS
        }
        for structure in structures()
    }
    over = [cell for cell in cells if cell["any_false_claim"] > bound]
    return {"cells": len(cells), "over_the_bound": len(over), "worst": worst, "power": power}


def structures() -> dict[str, Callable[[int], Array]]:
    """Names of variance structures, and the spread of the baseline's and of every variant's noise."""
    ones = np.ones
    return {
        "equal": lambda k: ones(k + 1),
        "one variant twice as noisy": lambda k: np.r_[1.0, 2.0, ones(k - 1)],
        "noisy baseline": lambda k: np.r_[2.0, ones(k)],
        "quiet baseline": lambda k: np.r_[0.5, ones(k)],
        "real runs": lambda k: np.r_[real_spreads()[0], np.resize(real_spreads()[1:], k)],
    }


@cache
def real_spreads() -> Array:
    """Spread of every variant's scores, what a seed adds to all removed, in units of their root mean square."""
    results = json.loads((RESULTS / "default_compare.json").read_text(encoding="utf-8"))["results"]
    scores = np.array([entry["scores"] for entry in results.values()]).T
    residual = scores - scores.mean(1, keepdims=True)
    variance = residual.var(0, ddof=1)
    return np.sqrt(variance / variance.mean())


def draw(rng: np.random.Generator, spread: Array, seeds: int, first: float) -> Array:
    """Scores (comparison, seed, variant), the baseline first; the first variant is better by ``first`` spreads."""
    noise = rng.standard_normal((DRAWS, seeds, len(spread))) * spread
    scores = BLOCK * rng.standard_normal((DRAWS, seeds, 1)) + noise
    scores[:, :, 1] += first * float(np.sqrt(np.mean(spread**2)))
    return scores


def paired_t_holm(scores: Array) -> NDArray[np.bool_]:
    """Paired t tests with Holm's correction: which variants are said to differ."""
    _, p = _paired(scores)
    variants = p.shape[1]
    order = np.argsort(p, 1)
    passed = np.take_along_axis(p, order, 1) <= LEVEL / np.arange(variants, 0, -1)
    rejected = np.zeros_like(passed)
    np.put_along_axis(rejected, order, np.cumprod(passed, 1).astype(bool), 1)
    return rejected


def paired_t_simultaneous(scores: Array) -> NDArray[np.bool_]:
    """Paired t intervals, wide enough to hold for all variants at once (Šidák)."""
    _, p = _paired(scores)
    return p <= 1 - (1 - LEVEL) ** (1 / p.shape[1])


def pooled_dunnett(scores: Array) -> NDArray[np.bool_]:
    """Seeds as blocks, one variance for all variants, Dunnett's critical value."""
    seeds, columns = scores.shape[1:]
    residual = (
        scores - scores.mean(1, keepdims=True) - scores.mean(2, keepdims=True) + scores.mean((1, 2), keepdims=True)
    )
    df = (seeds - 1) * (columns - 1)
    variance = (residual**2).sum((1, 2)) / df
    t = (scores[:, :, 1:] - scores[:, :, :1]).mean(1) / np.sqrt(2 * variance / seeds)[:, None]
    return np.abs(t) >= many_to_one(df, columns - 1)


def moderated_dunnett(scores: Array) -> NDArray[np.bool_]:
    """Variances of the differences shrunk towards their pool as limma does, Dunnett's critical value."""
    differences = scores[:, :, 1:] - scores[:, :, :1]
    seeds, variants = differences.shape[1:]
    own, d = differences.var(1, ddof=1), seeds - 1
    if variants == 1:
        return paired_t_simultaneous(scores)
    e = np.log(own) - special.digamma(d / 2) + np.log(d / 2)
    excess = e.var(1, ddof=1) - special.polygamma(1, d / 2)
    prior = np.where(excess > 0, 2 * trigamma_inverse(np.maximum(excess, 1e-8)), np.inf)
    centre = np.exp(e.mean(1) + np.where(np.isinf(prior), 0, special.digamma(prior / 2) - np.log(prior / 2)))
    weight = np.where(np.isinf(prior), 1, prior / (prior + d))[:, None]
    variance = weight * centre[:, None] + (1 - weight) * own
    df = np.minimum(prior + d, variants * d)
    critical = np.interp(df, *_critical_by_df(variants))
    return np.abs(differences.mean(1)) >= critical[:, None] * np.sqrt(variance / seeds)


TESTS: dict[str, Callable[[Array], NDArray[np.bool_]]] = {
    "paired t, Holm": paired_t_holm,
    "paired t, simultaneous intervals": paired_t_simultaneous,
    "pooled blocks, Dunnett": pooled_dunnett,
    "moderated t, Dunnett": moderated_dunnett,
}


def _paired(scores: Array) -> tuple[Array, Array]:
    test = stats.ttest_rel(scores[:, :, 1:], scores[:, :, :1], axis=1)
    return test.statistic, test.pvalue


def trigamma_inverse(x: Array) -> Array:
    """Where trigamma is x, by Newton's steps as in limma."""
    y = 0.5 + 1 / x
    for _ in range(50):
        trigamma = special.polygamma(1, y)
        y = y + trigamma * (1 - trigamma / x) / special.polygamma(2, y)
    return y


@cache
def _critical_by_df(variants: int) -> tuple[Array, Array]:
    grid = np.unique(np.round(np.geomspace(2, 100, 20), 1))
    return grid, np.array([many_to_one(df, variants) for df in grid])


@cache
def many_to_one(df: float, variants: int) -> float:
    """Dunnett's two-sided critical value for variants that share a baseline of the same variance."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def inside(critical: float) -> float:
        def given(scale: float) -> float:
            bound = np.sqrt(2) * critical * scale
            each = special.ndtr(bound - nodes) - special.ndtr(-bound - nodes)
            return float(weights @ each**variants) * stats.chi.pdf(scale * np.sqrt(df), df) * np.sqrt(df)

        return integrate.quad(given, 0, 1 + 12 / np.sqrt(df), limit=200)[0]

    return optimize.root_scalar(lambda critical: inside(critical) - (1 - LEVEL), bracket=(1, 60)).root


if __name__ == "__main__":
    main()
