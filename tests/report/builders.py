"""Results files for tests of the report: small, and every number in them chosen."""

from __future__ import annotations

from typing import Any

from saccade.report.results import Difference, EpochRecord, FailedTrial, Results, VariantResult


def variant(
    name: str, verdict: str | None = None, difference: Difference | None = None, **changes: Any
) -> VariantResult:
    """A variant of two seeds; a verdict brings a difference with it."""
    if verdict is not None and difference is None:
        difference = Difference(mean=0.0123, low=0.0051, high=0.0195, p=0.0042)
    values: dict[str, Any] = {
        "name": name,
        "label": name,
        "options": {},
        "at": "residual" if verdict else None,
        "start": "paper" if verdict else None,
        "sites": ["layer1.0.bn2", "layer2.0.bn2"] if verdict else [],
        "params": 77_754,
        "macs": 2_100_000,
        "latency_ms": 0.9,
        "train_step_ms": 31.0,
        "scores": [0.85, 0.852],
        "mean": 0.851,
        "difference": difference,
        "verdict": verdict,
        "seeds_to_decide": None,
        "curves": [_curve(0.80), _curve(0.82)],
    }
    return VariantResult(**values | changes)


def failed_variant(name: str, seeds: int = 2) -> VariantResult:
    """A variant of which no trial ended well."""
    return variant(
        name, "too few runs", scores=[None] * seeds, mean=None, latency_ms=None, train_step_ms=None, curves=[[]] * seeds
    ).model_copy(update={"difference": None})


def results(*variants: VariantResult, **changes: Any) -> Results:
    """A comparison of the given variants with the baseline ``none``."""
    values: dict[str, Any] = {
        "baseline": "none",
        "margin": 0.5,
        "seeds": [0, 1],
        "data": "sample",
        "model": "saccade:cifar_resnet",
        "epochs": 3,
        "variants": [variant("none"), *variants],
        "failed": [],
        "classes": ["Trouser", "Bag"],
        "images": {"train": 5500, "val": 500, "test": 3000},
        "input_shape": [1, 28, 28],
        "batch_size": 64,
        "environment": {"saccade": "0.1.0", "torch": "2.15.0"},
        "command": "saccade compare --seeds 2",
        "notes": ["Intervals are not corrected."],
    }
    return Results(schema="saccade.results/1", **values | changes)


def one_of_each() -> Results:
    """All four verdicts and a failed variant."""
    undecided = variant("gam", "too few runs", params=212_714, macs=9_000_000, train_step_ms=74.0, seeds_to_decide=14)
    hurting = variant("se", "hurts", Difference(mean=-0.0061, low=-0.0097, high=-0.0025, p=0.0004))
    failed = [FailedTrial(name="eca", seed=seed, reason="the loss became infinite") for seed in (0, 1)]
    return results(
        variant("simam", "helps"), hurting, variant("aaconv", "no difference shown"), undecided, failed_variant("eca"),
        failed=failed,
    )  # fmt: skip


def _curve(last: float) -> list[EpochRecord]:
    return [EpochRecord(epoch=e, train_loss=1 / e, val_accuracy=last - 0.1 / e) for e in (1, 2, 3)]
