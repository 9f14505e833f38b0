"""What a mechanism is, as data: one source for the catalogue, the documentation and the reports."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

Kind = Literal["gate", "context", "conv", "norm", "warp", "position"]
Attends = Literal["channel", "spatial", "channel+spatial", "positions"]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a mechanism comes from, what it computes, and where this library departs from paper or authors' code."""

    title: str
    authors: str
    year: int
    venue: str
    arxiv: str | None
    kind: Kind
    attends: Attends
    equations: tuple[str, ...]
    deviations: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Card(Paper):
    """A :class:`Paper` under its name in the catalogue, with the options and defaults of our module. Prints as text."""

    name: str
    summary: str
    options: dict[str, Any]

    def __str__(self) -> str:
        source = f"{self.authors}. {self.venue}, {self.year}." + (f" arXiv {self.arxiv}" if self.arxiv else "")
        head = [f"{self.name}: {self.summary}", "", self.title, source, f"kind {self.kind}, attends {self.attends}"]
        options = [f"{name}={default!r}" for name, default in self.options.items()]
        parts = (
            ("Equations", self.equations),
            ("Options", options),
            ("Deviations", self.deviations),
            ("Limits", self.limits),
        )
        body = [line for title, lines in parts if lines for line in ("", title, *(f"  {line}" for line in lines))]
        return "\n".join(head + body)


def make_card(name: str, paper: Paper, summary: str, options: dict[str, Any]) -> Card:
    values = {field.name: getattr(paper, field.name) for field in fields(Paper)}
    return Card(name=name, summary=summary, options=options, **values)
