"""From a results file to one HTML page that needs nothing else: no font, no request, and no script to be read."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from saccade.report import numbers
from saccade.report.answer import answer
from saccade.report.entries import Entry, entries, finished
from saccade.report.figures import figures
from saccade.report.results import (
    HELPS,
    HURTS,
    NO_DIFFERENCE,
    TOO_FEW,
    Results,
    VariantResult,
    read_results,
    results_csv,
    write_atomic,
)

# Sign and class of a verdict: the word says it, the sign shows it, colour only repeats it.
VERDICT_SIGNS = {HELPS: ("▲", "helps"), HURTS: ("▼", "hurts"), NO_DIFFERENCE: ("≈", "same"), TOO_FEW: ("…", "open")}
NO_VERDICT = "no verdict"
# Longer lists of classes are folded away.
MOST_CLASSES = 20


@dataclass(frozen=True)
class TableRow:
    """One line of the verdict table, written out."""

    entry: Entry
    accuracy: str
    finished: str
    difference: str
    interval: str
    p: str
    verdict: str
    sign: str
    verdict_class: str
    seeds_to_decide: str
    params: str
    macs: str
    latency: str
    step: str
    step_ratio: str
    memory: str
    images: str


def report_html(results: Results) -> str:
    """The whole report as one page.

    Everything of the users' is text: the template escapes it, and so does the drawing of the charts.
    """
    shown = entries(results)
    baseline = next((entry for entry in shown if entry.role == "baseline"), None)
    script = resources.files("saccade.report").joinpath("report.js").read_text(encoding="utf-8")
    return _template().render(
        results=results,
        answer=answer(results),
        baseline=baseline.label if baseline else results.baseline,
        labels={entry.variant.name: entry.label for entry in shown},
        rows=[_table_row(entry, baseline.variant if baseline else None) for entry in shown],
        beside={control.name: _beside(control.name, shown) for control in results.controls},
        has_memory=any(entry.variant.peak_memory_mib is not None for entry in shown),
        figures=figures(results),
        per_class=_per_class(results, shown),
        downloads=_downloads(results),
        script=script,
        # The one script that may run, by its hash.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        signs=VERDICT_SIGNS,
        most_classes=MOST_CLASSES,
        plural=numbers.plural,
        percent=numbers.percent,
        points=numbers.points,
    )


def _beside(control: str, shown: list[Entry]) -> list[dict[str, Any]]:
    """Every variant beside a control, written out."""
    return [
        {
            "entry": entry,
            "difference": numbers.points(beside.difference.mean if beside.difference else None),
            "interval": numbers.interval(beside.difference.low, beside.difference.high) if beside.difference else "",
            "p": numbers.p_value(beside.difference.p if beside.difference else None),
            "verdict": beside.verdict,
            "sign": VERDICT_SIGNS[beside.verdict][0],
            "verdict_class": VERDICT_SIGNS[beside.verdict][1],
            "seeds_to_decide": numbers.DASH if beside.seeds_to_decide is None else str(beside.seeds_to_decide),
        }
        for entry in shown
        if (beside := entry.variant.against.get(control)) is not None
    ]


def _per_class(results: Results, shown: list[Entry]) -> list[dict[str, Any]]:
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
            changes.append((entry, sum(differences) / len(differences) if differences else None))
        rows.append({"name": name, "baseline": sum(known) / len(known) if known else None, "changes": changes})
    return rows


def _of_class(variant: VariantResult, number: int) -> list[float | None]:
    return [seed[number] if seed else None for seed in variant.per_class]


def _downloads(results: Results) -> list[tuple[str, str]]:
    """The results as files within the page: name and address."""
    files = {
        "results.json": ("application/json", results.model_dump_json(indent=2, by_alias=True)),
        "results.csv": ("text/csv", results_csv(results)),
    }
    return [
        (name, f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}") for name, (kind, text) in files.items()
    ]


def write_report(folder: Path) -> Path:
    """Read ``results.json`` in the folder, write ``report.html`` beside it and return its path."""
    path = folder / "report.html"
    write_atomic(path, report_html(read_results(folder)))
    return path


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("saccade", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


def _table_row(entry: Entry, baseline: VariantResult | None) -> TableRow:
    variant, difference = entry.variant, entry.variant.difference
    verdict = variant.verdict or ("baseline" if entry.role == "baseline" else NO_VERDICT)
    sign, verdict_class = VERDICT_SIGNS.get(verdict, ("", "none"))
    done, asked = len(finished(entry)), len(variant.scores)
    ratio = numbers.times(variant.train_step_ms, baseline.train_step_ms if baseline else None)
    return TableRow(
        entry=entry,
        accuracy=numbers.percent(variant.mean),
        finished="" if done == asked else f"{done} of {numbers.plural(asked, 'seed')}",
        difference=numbers.points(difference.mean if difference else None),
        interval=numbers.interval(difference.low, difference.high) if difference else "",
        p=numbers.p_value(difference.p if difference else None),
        verdict=verdict,
        sign=sign,
        verdict_class=verdict_class,
        seeds_to_decide=numbers.DASH if variant.seeds_to_decide is None else str(variant.seeds_to_decide),
        params=numbers.count(variant.params),
        macs=numbers.count(variant.macs),
        latency=numbers.milliseconds(variant.latency_ms),
        step=numbers.milliseconds(variant.train_step_ms),
        step_ratio="" if entry.role == "baseline" else ratio,
        images=_images(variant),
        memory=numbers.NOT_MEASURED if variant.peak_memory_mib is None else f"{variant.peak_memory_mib:.0f}",
    )


def _images(variant: VariantResult) -> str:
    change = variant.images
    if change is None:
        return ""
    low, high = numbers.points(change.low), numbers.points(change.high)
    return (
        f"names {numbers.percent(change.gained)} of the test images right that the baseline's network of the same seed "
        f"does not, and misses {numbers.percent(change.lost)} that it names; over other images like these, with these "
        f"networks, {low} to {high} points"
    )
