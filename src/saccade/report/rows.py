"""The lines of a report's tables, written out."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from saccade.report import numbers
from saccade.report.entries import Entry, finished
from saccade.report.results import (
    HELPS,
    HURTS,
    NO_DIFFERENCE,
    TOO_FEW,
    Difference,
    Results,
    VariantResult,
)

# Sign and class of a verdict: the word says it, the sign shows it, colour only repeats it.
VERDICT_SIGNS = {HELPS: ("▲", "helps"), HURTS: ("▼", "hurts"), NO_DIFFERENCE: ("≈", "same"), TOO_FEW: ("…", "open")}
NO_VERDICT = "no verdict"

Row = dict[str, Any]


def verdict_row(entry: Entry) -> Row:
    """An entry beside the baseline."""
    variant = entry.variant
    done, asked = len(finished(entry)), len(variant.scores)
    verdict = variant.verdict or ("baseline" if entry.role == "baseline" else NO_VERDICT)
    return {
        "entry": entry,
        "accuracy": numbers.percent(variant.mean),
        "finished": "" if done == asked else f"{done} of {numbers.plural(asked, 'seed')}",
        "images": _images(variant),
        **_judged(variant.difference, verdict, variant.seeds_to_decide),
    }


def control_rows(control: str, shown: list[Entry]) -> list[Row]:
    """Every variant beside a control."""
    return [
        {"entry": entry} | _judged(beside.difference, beside.verdict, beside.seeds_to_decide)
        for entry in shown
        if (beside := entry.variant.against.get(control)) is not None
    ]


def _judged(difference: Difference | None, verdict: str, seeds: int | None) -> Row:
    mean, interval, p = numbers.difference(difference)
    sign, verdict_class = VERDICT_SIGNS.get(verdict, ("", "none"))
    return {
        "difference": mean,
        "difference_value": difference.mean if difference else None,
        "interval": interval,
        "p": p,
        "p_value": difference.p if difference else None,
        "verdict": verdict,
        "sign": sign,
        "verdict_class": verdict_class,
        "seeds": numbers.DASH if seeds is None else str(seeds),
        "seeds_value": seeds,
    }


def _mib(size: float | None) -> str:
    if size is None:
        return numbers.NOT_MEASURED
    return f"{size:.2g}" if size < 1 else f"{size:.1f}" if size < 10 else f"{size:.0f}"


def _per_second(images: float | None) -> str:
    return numbers.NOT_MEASURED if images is None else f"{images:.0f}"


def _bytes_in_mib(variant: VariantResult) -> float | None:
    return None if variant.state_bytes is None else variant.state_bytes / 2**20


# Heading, value, and how it is written.
COSTS: tuple[tuple[str, Callable[[VariantResult], float | None], Callable[[float | None], str]], ...] = (
    ("Params", lambda v: v.params, numbers.count),
    ("On disk, MiB", _bytes_in_mib, _mib),
    ("MACs", lambda v: v.macs, numbers.count),
    ("Latency, ms", lambda v: v.latency_ms, numbers.milliseconds),
    ("Latency p95, ms", lambda v: v.latency_p95_ms, numbers.milliseconds),
    ("Compiled, ms", lambda v: v.latency_compiled_ms, numbers.milliseconds),
    ("Images/s", lambda v: v.images_per_s, _per_second),
    ("Train step, ms", lambda v: v.train_step_ms, numbers.milliseconds),
    ("Peak memory, MiB", lambda v: v.peak_memory_mib, _mib),
)


def cost_table(shown: list[Entry]) -> tuple[list[str], list[Row]]:
    """Headings, and a row for every entry: of each cost that any of them has the value, the text, the ratio to the
    baseline's. The longer control costs in training alone, and that in epochs, which no column shows."""
    columns = [column for column in COSTS if any(column[1](entry.variant) is not None for entry in shown)]
    baseline = next((entry for entry in shown if entry.role == "baseline"), None)
    rows = []
    for entry in shown:
        base = baseline.variant if baseline is not None and entry is not baseline else None
        cells = [
            {"value": value(entry.variant), "text": write(value(entry.variant)), "ratio": _ratio(value, entry, base)}
            for _, value, write in columns
        ]
        rows.append({"entry": entry, "cells": cells})
    return [heading for heading, _, _ in columns], rows


def _ratio(value: Callable[[VariantResult], float | None], entry: Entry, base: VariantResult | None) -> str:
    return "" if base is None else numbers.times(value(entry.variant), value(base))


def class_rows(results: Results, shown: list[Entry]) -> list[Row]:
    """For every class the baseline's accuracy and what each variant adds, means over seeds that both have."""
    baseline = next((entry.variant for entry in shown if entry.role == "baseline"), None)
    others = [entry for entry in shown if entry.role == "variant" and any(entry.variant.per_class)]
    if baseline is None or not any(baseline.per_class) or not others:
        return []
    rows = []
    for number, name in enumerate(results.classes):
        theirs = _of_class(baseline, number)
        known = [value for value in theirs if value is not None]
        changes = []
        for entry in others:
            pairs = zip(_of_class(entry.variant, number), theirs, strict=True)
            differences = [a - b for a, b in pairs if a is not None and b is not None]
            changes.append((entry, fmean(differences) if differences else None))
        rows.append({"name": name, "baseline": fmean(known) if known else None, "changes": changes})
    return rows


def _of_class(variant: VariantResult, number: int) -> list[float | None]:
    return [seed[number] if seed else None for seed in variant.per_class]


def _images(variant: VariantResult) -> str:
    change = variant.images
    if change is None:
        return ""
    low, high = numbers.points(change.low), numbers.points(change.high)
    return (
        f"names {numbers.percent(change.gained)} of the test images right that the baseline's network of the same seed "
        f"does not, and misses {numbers.percent(change.lost)} that it names; 95 % interval over other images like "
        f"these, with these networks: {low} to {high} points"
    )
