"""What the commands print at their end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saccade.report.answer import answer

if TYPE_CHECKING:
    from saccade.report.results import Difference, Results, VariantResult


def print_comparison(results: Results, report: Path) -> None:
    """The answer, the verdicts, the costs and where attention stands, what to know of them, the path of the report."""
    out = console()
    verdicts = table(
        ("variant", "accuracy\n%", "difference", "95 % interval", "verdict", "seeds to\ndecide"),
        [_verdict_row(variant) for variant in (*results.variants, *results.controls)],
        left=("variant", "verdict"),
    )
    costs = table(
        ("variant", "params", "MACs", "latency\nms", "step\nms", "where"),
        [_cost_row(variant) for variant in (*results.variants, *results.controls)],
        left=("variant", "where"),
    )
    for each in (verdicts, *(_beside(control.name, results) for control in results.controls), costs):
        out.print(each)
        out.print()
    lines = [f"failed: {trial.name}, seed {trial.seed}: {trial.reason}" for trial in results.failed]
    lines.append(
        f"Differences are in points, the margin is {results.margin:g}. "
        "Each 95 % interval is wide enough for all rows of its table at once."
    )
    lines += [answer(results), f"report: {report}"]
    for line in lines:
        out.print(line, markup=False, highlight=False)


def _beside(control: str, results: Results) -> Table:
    """Every variant beside a control."""
    return table(
        (f"beside {control}", "difference", "95 % interval", "verdict", "seeds to\ndecide"),
        [
            [variant.name, *_difference(beside.difference), beside.verdict, _seeds(beside.seeds_to_decide)]
            for variant in results.variants
            if (beside := variant.against.get(control)) is not None
        ],
        left=(f"beside {control}", "verdict"),
    )


def console() -> Console:
    """A file or a pipe has no width of its own, and a wrapped table cannot be read by a program."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def table(columns: tuple[str, ...], rows: list[list[str]], left: tuple[str, ...]) -> Table:
    """Columns whose heading is in ``left`` are flush left, the others, of numbers, flush right."""
    made = Table(box=None, pad_edge=False, collapse_padding=True)
    for name in columns:
        # Long names fold where the terminal is narrow; numbers and verdicts stay whole.
        justify, whole = "left" if name in left else "right", name != columns[0]
        made.add_column(Text(name), justify=justify, no_wrap=whole, overflow="fold")
    for row in rows:
        # As text: what is in brackets must not be read as rich's markup.
        made.add_row(*map(Text, row))
    return made


def _verdict_row(variant: VariantResult) -> list[str]:
    return [
        variant.name,
        "" if variant.mean is None else f"{100 * variant.mean:.2f}",
        *_difference(variant.difference),
        variant.verdict or "(baseline)",
        _seeds(variant.seeds_to_decide),
    ]


def _difference(difference: Difference | None) -> tuple[str, str]:
    """The difference and its interval, in points."""
    if difference is None:
        return "", ""
    low, high = difference.low, difference.high
    interval = "" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"
    return f"{100 * difference.mean:+.2f}", interval


def _seeds(count: int | None) -> str:
    return "" if count is None else f"~{count}"


def _cost_row(variant: VariantResult) -> list[str]:
    return [
        variant.name,
        "" if variant.params is None else f"{variant.params:,}",
        "" if variant.macs is None else f"{variant.macs / 1e6:.2f} M",
        _number(variant.latency_ms),
        _number(variant.train_step_ms),
        f"{len(variant.sites)} x {variant.at}" if variant.sites else "",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
