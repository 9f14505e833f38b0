"""The variants of a comparison as a report shows them, each with one label, colour and shape on the whole page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from saccade.report.results import Results, VariantResult

# Colours are CSS variables, because a page on paper and a dark page need different ones; the template defines them.
COLOURS = tuple(f"var(--c{number})" for number in range(1, 8))
BASELINE_COLOUR = "currentColor"
# Paths in a square from -1 to 1, which is what Vega and the legend both draw.
BASELINE_SHAPE = "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z"
SHAPES = (
    "M-0.85,-0.85H0.85V0.85H-0.85Z",
    "M0,-1.2L1.2,0L0,1.2L-1.2,0Z",
    "M0,-1.1L1.15,0.85H-1.15Z",
    "M0,1.1L1.15,-0.85H-1.15Z",
    "M-0.4,-1.15H0.4V-0.4H1.15V0.4H0.4V1.15H-0.4V0.4H-1.15V-0.4H-0.4Z",
    "M-1.2,-0.5H1.2V0.5H-1.2Z",
)


@dataclass(frozen=True)
class Entry:
    """A variant, the baseline or a control, and how it looks."""

    variant: VariantResult
    label: str
    role: Literal["baseline", "variant", "control"]
    colour: str
    shape: str


def entries(results: Results) -> list[Entry]:
    """Variants, then controls, in the order of the file. The number of colours and of shapes have no common divisor,
    so that 42 variants can be told apart.
    """
    everything = [*results.variants, *results.controls]
    seen = Counter(v.label for v in everything)
    made: list[Entry] = []
    others = 0
    for position, variant in enumerate(everything):
        # Two variants may be labelled alike (one mechanism at two places); their names differ.
        label = variant.label if seen[variant.label] == 1 else variant.name
        if position >= len(results.variants):
            label = label if "control" in label else f"{label} (control)"
            role = "control"
        else:
            role = "baseline" if variant.name == results.baseline else "variant"
        if role == "baseline":
            made.append(Entry(variant, label, role, BASELINE_COLOUR, BASELINE_SHAPE))
        else:
            made.append(Entry(variant, label, role, COLOURS[others % len(COLOURS)], SHAPES[others % len(SHAPES)]))
            others += 1
    return made


def finished(entry: Entry) -> list[float]:
    """The scores of the trials that ended well."""
    return [score for score in entry.variant.scores if score is not None]
