"""From finished trials to the results file."""

from __future__ import annotations

import shlex
from pathlib import Path
from statistics import fmean

from saccade.comparison.record import Record
from saccade.comparison.request import BASELINE, Variant
from saccade.comparison.statistics import paired_difference, seeds_to_decide, verdict
from saccade.comparison.trial import read_metrics, read_result
from saccade.data import ImageData
from saccade.data.images import SPLITS
from saccade.report.results import TOO_FEW, EpochRecord, FailedTrial, Results, VariantResult

INTERVALS = (
    "Differences are paired by seed. Intervals and p are of the paired t test, widened so that the 95 % holds for all "
    "variants at once; they speak of this recipe on this test set."
)
TIMES = "Latency is of one image, the training step of one batch, both with one thread, before the first trial."


def summarise(record: Record, data: ImageData, folder: Path, failed: list[FailedTrial], notes: list[str]) -> Results:
    """Read every trial of a comparison's folder and draw the verdicts."""
    asked = record.asked
    baseline = _scores(record, BASELINE, folder)
    return Results(
        schema="saccade.results/1",
        baseline=BASELINE,
        margin=asked.margin,
        seeds=asked.seeds,
        data=asked.data,
        model=asked.model,
        epochs=asked.settings.epochs,
        variants=[_variant(record, variant, folder, baseline) for variant in asked.variants],
        failed=failed,
        classes=data.classes,
        images={name: len(getattr(data, name)) for name in SPLITS},
        input_shape=list(data.shape),
        batch_size=asked.settings.batch_size,
        environment=record.environment | {"threads per trial": str(record.threads_per_trial)},
        command=command_of(record, folder),
        notes=[*notes, INTERVALS, TIMES],
    )


def command_of(record: Record, folder: Path) -> str:
    """The command that makes the comparison in a folder, or goes on with it."""
    return f"{record.asked.command} --out {shlex.quote(str(folder))}"


def _scores(record: Record, variant: str, folder: Path) -> list[float | None]:
    return [read_result(folder, variant, seed) for seed in record.asked.seeds]


def _variant(record: Record, variant: Variant, folder: Path, baseline: list[float | None]) -> VariantResult:
    asked = record.asked
    measured = record.costs[variant.name]
    scores = _scores(record, variant.name, folder)
    finished = [score for score in scores if score is not None]
    is_baseline = variant.attention is None
    compared = len(asked.variants) - 1
    difference = None if is_baseline else paired_difference(scores, baseline, compared)
    decided = None if is_baseline else verdict(difference, asked.margin)
    return VariantResult(
        name=variant.name,
        label=variant.name,
        options=variant.options,
        at=measured.at,
        start=None if is_baseline else variant.start,
        sites=measured.sites,
        params=measured.params,
        macs=measured.macs,
        latency_ms=measured.latency_ms,
        train_step_ms=measured.train_step_ms,
        scores=scores,
        mean=fmean(finished) if finished else None,
        difference=difference,
        verdict=decided,
        seeds_to_decide=seeds_to_decide(scores, baseline, asked.margin, compared) if decided == TOO_FEW else None,
        curves=[_curve(folder, variant, seed) for seed in asked.seeds],
    )


def _curve(folder: Path, variant: Variant, seed: int) -> list[EpochRecord]:
    return [
        EpochRecord(**{name: entry[name] for name in EpochRecord.model_fields})
        for entry in read_metrics(folder, variant.name, seed)
    ]
