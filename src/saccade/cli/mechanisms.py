"""What ``saccade list`` and ``saccade describe`` print."""

from __future__ import annotations

import json

from rich.table import Table

import saccade
from saccade.cli.tables import console
from saccade.profiling import MechanismCost, mechanism_cost

LISTED = (256, 14, 14)
COMMON = ((64, 56, 56), (256, 14, 14), (512, 7, 7), (2048, 7, 7))
IN_PLACE = "Of kind conv, the cost is that of the whole 3 x 3 convolution that it becomes; a plain one costs"


def print_table(names: list[str]) -> None:
    """One line for every mechanism."""
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for column in ("name", "kind", "attends", "year", "params", "MACs"):
        table.add_column(column, no_wrap=True, justify="right" if column in ("params", "MACs") else "left")
    table.add_column("paper", overflow="ellipsis", no_wrap=True)
    for name in names:
        card, cost = saccade.describe(name), mechanism_cost(name, *LISTED)
        numbers = (f"{cost.params:,}", f"{cost.macs / 1e6:,.2f} M")
        table.add_row(name, card.kind, card.attends, str(card.year), *numbers, card.title)
    out = console()
    out.print(table)
    channels, height, width = LISTED
    positions, filters = height * width, 9 * channels * channels
    out.print(f"\nParams and MACs at {channels} channels on a {height} x {width} map.", highlight=False)
    out.print(f"{IN_PLACE} {filters:,} and {filters * positions / 1e6:,.2f} M.", highlight=False)


def print_json(names: list[str]) -> None:
    """The same as data: a list of objects."""
    print(json.dumps([_entry(name) for name in names], indent=2))


def print_card(name: str) -> None:
    """All about a mechanism, and what it costs on maps of common sizes."""
    print(saccade.describe(name))
    print("\nCost")
    for size in COMMON:
        print(f"  {_line(mechanism_cost(name, *size))}")


def _entry(name: str) -> dict[str, str | int | None]:
    card, cost = saccade.describe(name), mechanism_cost(name, *LISTED)
    return {
        "name": name,
        "kind": card.kind,
        "attends": card.attends,
        "title": card.title,
        "authors": card.authors,
        "venue": card.venue,
        "year": card.year,
        "arxiv": card.arxiv,
        "channels": cost.channels,
        "height": cost.height,
        "width": cost.width,
        "params": cost.params,
        "macs": cost.macs,
    }


def _line(cost: MechanismCost) -> str:
    size = f"C = {cost.channels}, {cost.height} x {cost.width}"
    return f"{size:<18} {cost.params:>13,} parameters {cost.macs:>15,} MACs"
