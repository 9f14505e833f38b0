"""The figures of a report: which charts there are, and what each says in one sentence of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from saccade.report import plots
from saccade.report.entries import Entry, entries, finished
from saccade.report.numbers import DASH, count, interval, listed, milliseconds, percent, points, times
from saccade.report.results import Results, VariantResult


@dataclass(frozen=True)
class Panel:
    """One chart, under a title of its own where a figure has several of a kind."""

    svg: str
    title: str = ""
    entry: Entry | None = None


@dataclass(frozen=True)
class Figure:
    """One or more charts under one sentence; ``legend`` names the marks where the axes do not."""

    title: str
    caption: str
    panels: list[Panel]
    legend: list[Entry] = field(default_factory=list)
    axes: list[str] = field(default_factory=list)
    """Names of the panels where one is shown at a time."""


COSTS: tuple[tuple[str, str, bool, Callable[[VariantResult], float | None], Callable[[float | None], str]], ...] = (
    ("parameters", "parameters, log scale", True, lambda v: v.params, count),
    ("MACs", "MACs per image, log scale", True, lambda v: v.macs, count),
    ("latency", "latency, ms", False, lambda v: v.latency_ms, lambda ms: f"{milliseconds(ms)} ms"),
    ("training step", "training step, ms", False, lambda v: v.train_step_ms, lambda ms: f"{milliseconds(ms)} ms"),
    ("memory", "peak memory of a training step, MiB", False, lambda v: v.peak_memory_mib, lambda mib: f"{mib:.0f} MiB"),
)


def figures(results: Results) -> list[Figure]:
    """All figures for which the results have numbers."""
    shown = entries(results)
    made = [difference_figure(results, shown), seeds_figure(results, shown), cost_figure(shown), curve_figure(shown)]
    return [figure for figure in made if figure is not None]


def difference_figure(results: Results, shown: list[Entry]) -> Figure | None:
    """How far every variant is from the baseline; ``None`` where no difference is known."""
    rows: plots.Rows = []
    for entry in shown:
        difference, look = entry.variant.difference, _look(entry)
        if difference is not None:
            verdict = entry.variant.verdict or "no verdict"
            low, high = _hundredfold(difference.low), _hundredfold(difference.high)
            row = {"mean": _hundredfold(difference.mean), "low": low, "high": high}
            rows.append(look | row | {"said": f"{points(difference.mean)}, {verdict}"})
        elif entry.role == "baseline":
            rows.append(look | {"mean": 0.0, "low": None, "high": None, "said": "baseline"})
    known = [(e.variant.difference.mean, e.label) for e in shown if e.variant.difference is not None]
    if not known:
        return None
    (low, worst), (high, best) = min(known), max(known)
    if len(known) == 1:
        said = f"The mean difference to the baseline is {points(high)} points ({best})"
    else:
        said = f"Mean differences to the baseline go from {points(low)} points ({worst}) to {points(high)} ({best})"
    lines = (
        "each line is a 95 % interval" if any(row["low"] is not None for row in rows) else "these runs give no interval"
    )
    caption = f"{said}; {lines}, and the shaded band is the margin of ±{results.margin:g} points."
    label = "Differences to the baseline in points: " + "; ".join(
        _difference_text(e) for e in shown if e.variant.difference
    )
    svg = plots.difference_chart(rows, margin=results.margin, label=label)
    return Figure("Difference to the baseline", caption, [Panel(svg)])


def seeds_figure(results: Results, shown: list[Entry]) -> Figure | None:
    """Every trial's accuracy; ``None`` where none finished."""
    done = [entry for entry in shown if finished(entry)]
    if not done:
        return None
    rows, trials = [], []
    for order, entry in enumerate(done):
        mean = fmean(finished(entry))
        rows.append(_look(entry) | {"mean": 100 * mean, "said": percent(mean)})
        for seed, score in zip(results.seeds, entry.variant.scores, strict=True):
            if score is not None:
                trials.append(_look(entry) | {"order": order, "seed": str(seed), "mean": 100 * score})
    spread, widest = max((max(finished(e)) - min(finished(e)), e.label) for e in done)
    caption = _range("Mean accuracy", [(fmean(finished(entry)), entry.label) for entry in done])
    if len(results.seeds) > 1:
        caption += f"; the seeds of one variant lie up to {100 * spread:.2f} points apart ({widest})"
    caption += "; each mark is a trial, the upright bar is the mean, and a thin line joins the trials of one seed."
    label = "Accuracy by seed: " + "; ".join(
        f"{e.label} {', '.join(percent(score) for score in e.variant.scores)}" for e in done
    )
    return Figure("Every trial", caption, [Panel(plots.seeds_chart(rows, trials, label=label))])


def cost_figure(shown: list[Entry]) -> Figure | None:
    """Controls are left out: what they cost more is training, which none of the axes shows."""
    done = [entry for entry in shown if finished(entry) and entry.role != "control"]
    if not done:
        return None
    accuracies = plots.padded([100 * score for entry in done for score in finished(entry)])
    panels, axes, missing = [], [], []
    for name, title, log, cost, write in COSTS:
        have = [entry for entry in done if (cost(entry.variant) or 0) > 0]
        if not have:
            missing.append(name)
            continue
        rows: plots.Rows = []
        for entry in have:
            scores = [100 * score for score in finished(entry)]
            row = {"cost": cost(entry.variant), "accuracy": fmean(scores), "low": min(scores), "high": max(scores)}
            rows.append(row | {"colour": entry.colour, "shape": entry.shape})
        told = "; ".join(f"{e.label} {write(cost(e.variant))}, {percent(fmean(finished(e)))}" for e in have)
        svg = plots.cost_chart(
            rows, title=title, log=log, accuracies=accuracies, label=f"Accuracy against {name}: {told}"
        )
        panels.append(Panel(svg))
        axes.append(name)
    if not panels:
        return None
    caption = (
        _cost_caption(done)
        + " The stepped line is the front: by these means, no variant on it is beaten in both by another."
    )
    caption += f" Not measured: {listed(missing)}." if missing else ""
    return Figure("Accuracy in % against cost", caption, panels, legend=done, axes=axes)


def curve_figure(shown: list[Entry]) -> Figure | None:
    """Learning curves, one chart per variant over the baseline's; ``None`` where none were kept."""
    drawn = [entry for entry in shown if any(entry.variant.curves)]
    if not drawn:
        return None
    rows = {id(entry): _curve_rows(entry) for entry in drawn}
    accuracies = plots.padded([row[key] for part in rows.values() for row in part for key in ("low", "high")])
    baseline = next((entry for entry in drawn if entry.role == "baseline"), None)
    panels = []
    for entry in [e for e in drawn if e is not baseline] or drawn:
        last = rows[id(entry)][-1]
        behind = rows[id(baseline)] if baseline is not None and baseline is not entry else []
        ends = percent(last["mean"] / 100)
        label = f"Validation accuracy of {entry.label} by epoch, {ends} after epoch {last['epoch']}"
        svg = plots.curve_chart(behind + rows[id(entry)], accuracies=accuracies, label=label)
        panels.append(Panel(svg, title=f"{entry.label}, {ends}", entry=entry))
    last_means = [(rows[id(entry)][-1]["mean"] / 100, entry.label) for entry in drawn]
    caption = _range("Validation accuracy after the last epoch", last_means)
    if any(len(entry.variant.curves) > 1 for entry in drawn):
        caption += "; lines are means over seeds, bands reach from the lowest to the highest seed"
    if baseline is not None and len(drawn) > 1:
        caption += "; the baseline is drawn behind each"
    caption += "."
    return Figure("Validation accuracy in % by epoch", caption, panels)


def _curve_rows(entry: Entry) -> plots.Rows:
    """Mean and range by epoch over the seeds that got so far."""
    by_epoch: dict[int, list[float]] = {}
    for curve in entry.variant.curves:
        for record in curve:
            by_epoch.setdefault(record.epoch, []).append(100 * record.val_accuracy)
    # The baseline is the same in every chart: it stands back.
    look = {"who": entry.role, "colour": entry.colour, "opacity": 0.55 if entry.role == "baseline" else 1}
    return [
        look | {"epoch": epoch, "mean": fmean(values), "low": min(values), "high": max(values)}
        for epoch, values in sorted(by_epoch.items())
    ]


def _look(entry: Entry) -> dict[str, Any]:
    return {"name": entry.label, "colour": entry.colour, "shape": entry.shape}


def _hundredfold(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _difference_text(entry: Entry) -> str:
    difference = entry.variant.difference
    assert difference is not None
    return f"{entry.label} {points(difference.mean)} {interval(difference.low, difference.high)}".rstrip()


def _range(what: str, means: list[tuple[float, str]]) -> str:
    (low, worst), (high, best) = min(means), max(means)
    if len(means) == 1:
        return f"{what} is {percent(high)} ({best})"
    return f"{what} goes from {percent(low)} ({worst}) to {percent(high)} ({best})"


def _cost_caption(done: list[Entry]) -> str:
    best = max(done, key=lambda entry: fmean(finished(entry)))
    score, size = percent(fmean(finished(best))), count(best.variant.params)
    said = f"The highest mean is that of {best.label}: {score} with {size} parameters"
    dearest = max(done, key=lambda entry: entry.variant.macs or 0)
    baseline = next((entry for entry in done if entry.role == "baseline"), None)
    if baseline is not None and dearest is not baseline:
        ratio = times(dearest.variant.macs, baseline.variant.macs) or DASH
        said += f"; dearest is {dearest.label}: {count(dearest.variant.macs)} MACs, {ratio} the baseline's"
    seeds = max(len(finished(entry)) for entry in done)
    return f"{said}; upright lines reach from the lowest to the highest of {seeds} seeds." if seeds > 1 else f"{said}."
