"""What the commands print at their end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from saccade.attention._card import Card
    from saccade.report.results import Results, VariantResult


def print_mechanisms(cards: list[Card]) -> None:
    """One line for every mechanism."""
    table = Table("name", "kind", "attends", "year", "paper", box=None, pad_edge=False)
    for card in cards:
        table.add_row(card.name, card.kind, card.attends, str(card.year), card.title)
    _console().print(table)


def print_comparison(results: Results, report: Path) -> None:
    """The verdicts, the costs and where attention stands, then the path of the report."""
    console = _console()
    table = Table(box=None, pad_edge=False)
    table.add_column("variant")
    for name in ("accuracy %", "difference", "95 % interval"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for name in ("params", "MACs", "latency ms", "step ms"):
        table.add_column(name, justify="right")
    table.add_column("where")
    for variant in results.variants:
        # As text: what is in brackets must not be read as rich's markup.
        table.add_row(*map(Text, _row(variant)))
    console.print(table)
    for trial in results.failed:
        console.print(f"failed: {trial.name}, seed {trial.seed}: {trial.reason}", markup=False, highlight=False)
    console.print(f"differences in points, margin {results.margin:g}; report: {report}", markup=False, highlight=False)


def _console() -> Console:
    """A file or a pipe has no width of its own, and a wrapped table cannot be read by a program."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _row(variant: VariantResult) -> list[str]:
    difference = variant.difference
    mean = "" if difference is None else f"{100 * difference.mean:+.2f}"
    interval = (
        ""
        if difference is None or difference.low is None or difference.high is None
        else f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
    )
    verdict = variant.verdict or "(baseline)"
    if variant.seeds_to_decide is not None:
        verdict += f" (about {variant.seeds_to_decide} seeds would decide)"
    return [
        variant.name,
        "" if variant.mean is None else f"{100 * variant.mean:.2f}",
        mean,
        interval,
        verdict,
        f"{variant.params:,}",
        f"{variant.macs / 1e6:.2f} M",
        _number(variant.latency_ms),
        _number(variant.train_step_ms),
        f"{len(variant.sites)} x {variant.at}" if variant.at else "",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
