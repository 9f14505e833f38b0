"""From finished trials to the results file."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import numpy as np

from saccade.comparison.record import Record
from saccade.comparison.request import Variant
from saccade.comparison.statistics import image_change, paired_difference, seeds_to_decide, verdict
from saccade.comparison.trial import Trial, read_metrics, read_predictions, read_result
from saccade.data import ImageData
from saccade.data.images import SPLITS
from saccade.nets.places import is_residual_form
from saccade.report.results import TOO_FEW, Against, EpochRecord, FailedTrial, ImageChange, Results, VariantResult

INTERVALS = (
    "Differences are paired by seed. Intervals and p are of the paired t test, widened so that the 95 % holds for all "
    "rows of a table at once; they speak of this recipe on this test set."
)
CONTROLS = (
    "Controls have no attention: `longer` is the baseline trained for about the time that the dearest variant takes, "
    "rounded up to whole epochs; `wider` the narrowest host with as many times the MACs. Both were settled before the "
    "first trial, from the times measured then."
)
TUNED = (
    "Learning rate and weight decay were chosen for the baseline and for each variant by as many trials each, the same "
    "candidates for all, on the validation images with a seed of their own; controls have the baseline's."
)
TIMES = (
    "Latency is of one image; images per second in eval mode, the training step and its peak memory are of one batch; "
    "all measured with one thread, before the first trial. Times are medians, p95 the 95th percentile."
)


def summarise(record: Record, data: ImageData, folder: Path, failed: list[FailedTrial], notes: list[str]) -> Results:
    """Read every trial of a comparison's folder and draw the verdicts."""
    asked = record.asked
    controls, tuned = [CONTROLS] if asked.controls else [], [TUNED] if asked.tune else []
    return Results(
        schema="saccade.results/1",
        baseline=asked.variants[0].name,
        margin=asked.margin,
        seeds=asked.seeds,
        data=asked.data,
        model=asked.model,
        epochs=asked.settings.epochs,
        variants=[_result(record, variant, data, folder) for variant in asked.variants],
        controls=[_result(record, control, data, folder) for control in asked.controls],
        failed=failed,
        classes=data.classes,
        images={name: len(getattr(data, name)) for name in SPLITS},
        input_shape=list(data.shape),
        batch_size=asked.settings.batch_size,
        environment=record.environment | {"threads per trial": str(record.threads_per_trial)},
        command=asked.command(folder),
        notes=[*notes, *_trained_with(record), *_failed_tries(record), INTERVALS, *controls, *tuned, TIMES],
    )


def _trained_with(record: Record) -> list[str]:
    """What controls and tuned variants were trained with."""
    said = []
    for name, control in record.controls.items():
        host = f" of {control.model}" if control.model != record.asked.model else ""
        said.append(
            f"{name}: {control.epochs} epochs{host}; the training step of {control.dearest} takes {control.ratio:.2f} "
            f"times the baseline's, which is trained for {record.asked.settings.epochs}."
        )
    for name, tuned in record.tuned.items():
        chosen = "chosen by tuning" if tuned.val_accuracy is not None else "as asked for, since every try failed"
        said.append(f"{name}: learning rate {tuned.lr:.4g}, weight decay {tuned.weight_decay:.4g}, {chosen}.")
    return said


def _failed_tries(record: Record) -> list[str]:
    return [
        f"{len(tuned.failed)} of {record.asked.tune} tries of tuning {name} failed; the first: {tuned.failed[0]}"
        for name, tuned in record.tuned.items()
        if tuned.failed
    ]


def _result(record: Record, variant: Variant, data: ImageData, folder: Path) -> VariantResult:
    asked, settings = record.asked, record.settings(variant)
    measured, baseline = record.costs[variant.name], asked.variants[0]
    scores = _scores(record, variant, folder)
    finished = [score for score in scores if score is not None]
    beside = None if variant is baseline else _against(record, variant, baseline, folder)
    return VariantResult(
        name=variant.name,
        label=_label(variant),
        options=variant.options,
        start=variant.start,
        **measured.model_dump(),
        scores=scores,
        mean=fmean(finished) if finished else None,
        difference=beside.difference if beside else None,
        verdict=beside.verdict if beside else None,
        seeds_to_decide=beside.seeds_to_decide if beside else None,
        curves=[_curve(folder, variant, seed) for seed in asked.seeds],
        model=record.model(variant) if variant.control else None,
        epochs=settings.epochs,
        lr=settings.optim.lr,
        weight_decay=settings.optim.weight_decay,
        against={} if variant.plain else {c.name: _against(record, variant, c, folder) for c in asked.controls},
        images=None if variant is baseline else _images(record, variant, baseline, data, folder),
        per_class=[_per_class(folder, variant, seed, data) for seed in asked.seeds],
    )


def _label(variant: Variant) -> str:
    """An attention that a convolution keeps beside itself is not the paper's, and is called so."""
    kept = variant.attention is not None and is_residual_form(variant.attention, variant.start)
    return f"{variant.name}, residual form" if kept else variant.name


def _against(record: Record, variant: Variant, other: Variant, folder: Path) -> Against:
    """A variant or control beside another. Intervals hold at once for all that stand beside the same one."""
    ours, theirs = (_scores(record, each, folder) for each in (variant, other))
    # Beside the baseline stand variants and controls, beside a control the variants alone.
    compared = len(record.asked.variants) - 1 + (0 if other.control else len(record.asked.controls))
    margin = record.asked.margin
    difference = paired_difference(ours, theirs, compared)
    decided = verdict(difference, margin)
    seeds = seeds_to_decide(ours, theirs, margin, compared) if decided == TOO_FEW else None
    return Against(difference=difference, verdict=decided, seeds_to_decide=seeds)


def _scores(record: Record, variant: Variant, folder: Path) -> list[float | None]:
    return [read_result(folder, Trial(variant.name, seed)) for seed in record.asked.seeds]


def _curve(folder: Path, variant: Variant, seed: int) -> list[EpochRecord]:
    return [
        EpochRecord(**{name: entry[name] for name in EpochRecord.model_fields})
        for entry in read_metrics(folder, Trial(variant.name, seed))
    ]


def _images(record: Record, variant: Variant, other: Variant, data: ImageData, folder: Path) -> ImageChange | None:
    pairs = [[Trial(each.name, seed) for each in (variant, other)] for seed in record.asked.seeds]
    both = [
        [read_predictions(folder, trial) == data.test.labels for trial in pair]
        for pair in pairs
        if None not in [read_result(folder, trial) for trial in pair]
    ]
    return image_change(np.array(both)) if both else None


def _per_class(folder: Path, variant: Variant, seed: int, data: ImageData) -> list[float | None]:
    trial = Trial(variant.name, seed)
    if read_result(folder, trial) is None:
        return []
    right = read_predictions(folder, trial) == data.test.labels
    of_class = [right[data.test.labels == number] for number in range(len(data.classes))]
    return [float(each.double().mean()) if len(each) else None for each in of_class]
