"""A comparison as Markdown: the answer and its tables, for an issue or a paper's notes."""

from __future__ import annotations

from saccade.report import numbers
from saccade.report.answer import answer
from saccade.report.entries import Entry, entries
from saccade.report.results import Results

COLUMNS = ("variant", "accuracy", "difference, points", "95 % interval", "p", "verdict", "params", "MACs", "step, ms")


def results_markdown(results: Results) -> str:
    """The answer, the table of verdicts, one beside each control, and the notes."""
    shown = entries(results)
    parts = [_plain(answer(results)), _table(COLUMNS, [_row(entry) for entry in shown])]
    for control in results.controls:
        beside = [(entry, entry.variant.against[control.name]) for entry in shown if entry.variant.against]
        rows = [[entry.label, *numbers.difference(each.difference), each.verdict] for entry, each in beside]
        parts.append(_table((f"beside {control.name}", *COLUMNS[2:6]), rows))
    notes = [*(f"failed: {each.name}, seed {each.seed}: {each.reason}" for each in results.failed), *results.notes]
    parts.append("\n".join(f"- {_plain(note)}" for note in notes))
    parts.append("    " + results.command.replace("\n", "\n    "))
    return "\n\n".join(parts) + "\n"


def _row(entry: Entry) -> list[str]:
    variant = entry.variant
    return [
        entry.label,
        numbers.percent(variant.mean),
        *numbers.difference(variant.difference),
        variant.verdict or entry.role,
        numbers.count(variant.params),
        numbers.count(variant.macs),
        numbers.milliseconds(variant.train_step_ms),
    ]


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(text: str) -> str:
    """Text of a user's, without what would end a cell or begin markup."""
    for mark in "\\`*_|<>[]":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
