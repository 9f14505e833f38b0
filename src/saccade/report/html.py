"""From a results file to one HTML page that needs nothing else: no font, no request, and no script to be read."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path

import jinja2

from saccade._files import write_text
from saccade.report import numbers
from saccade.report.answer import answer
from saccade.report.entries import entries
from saccade.report.figures import figures
from saccade.report.results import Results, read_results, results_csv
from saccade.report.rows import VERDICT_SIGNS, class_rows, control_rows, cost_table, verdict_row

# Longer lists of classes are folded away.
MOST_CLASSES = 20


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
        rows=[verdict_row(entry) for entry in shown],
        beside={control.name: control_rows(control.name, shown) for control in results.controls},
        costs=cost_table(shown),
        figures=figures(results),
        per_class=class_rows(results, shown),
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


def _downloads(results: Results) -> list[tuple[str, str]]:
    """The results as files within the page: name and address."""
    files = {
        "results.json": ("application/json", results.model_dump_json(by_alias=True)),
        "results.csv": ("text/csv", results_csv(results)),
    }
    return [
        (name, f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}") for name, (kind, text) in files.items()
    ]


def write_report(folder: Path) -> Path:
    """Read ``results.json`` in the folder, write ``report.html`` beside it and return its path."""
    path = folder / "report.html"
    write_text(path, report_html(read_results(folder)))
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
