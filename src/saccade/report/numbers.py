"""How a report writes numbers. A number that is missing is a dash or says so; it is never ``None`` or ``nan``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saccade.report.results import Difference

DASH = "–"
SPACE = "\u00a0"  # between a number and its unit: a line does not break there
NOT_MEASURED = "not measured"
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(fraction: float | None) -> str:
    """A share as ``85.09 %``."""
    return DASH if fraction is None else f"{100 * fraction:.2f}{SPACE}%"


def points(fraction: float | None) -> str:
    """A difference of shares in percentage points, with its sign: ``−0.61``."""
    if fraction is None:
        return DASH
    text = f"{100 * fraction:+.2f}"
    # A difference that rounds to nothing has no sign.
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """An interval of differences in points, or nothing where the runs give none."""
    return "" if low is None or high is None else f"[{points(low)},{SPACE}{points(high)}]"


def difference(given: Difference | None) -> tuple[str, str, str]:
    """A difference, its interval and its p."""
    if given is None:
        return DASH, "", DASH
    return points(given.mean), interval(given.low, given.high), p_value(given.p)


def p_value(p: float | None) -> str:
    """Two significant digits, or ``<0.001``."""
    if p is None:
        return DASH
    return "<0.001" if p < 0.001 else f"{p:#.2g}"


def count(number: float | None) -> str:
    """Three significant digits with a unit: ``77.8 k``, ``2.10 M``; below a thousand the number itself."""
    if number is None:
        return DASH
    # Rounding first, so that 999 999 becomes 1.00 M and not 1000 k.
    rounded = float(f"{number:.3g}") if number >= 1000 else number
    for size, unit in _UNITS:
        if rounded >= size:
            return f"{_three_digits(rounded / size)}{SPACE}{unit}"
    return f"{number:.0f}"


def milliseconds(ms: float | None) -> str:
    """One decimal, or two below ten: ``31.0``, ``0.90``."""
    if ms is None:
        return NOT_MEASURED
    return f"{ms:.2f}" if ms < 10 else f"{ms:.1f}"


def times(number: float | None, reference: float | None) -> str:
    """How many times the reference a number is, ``×1.16``; nothing where one of them is missing."""
    return f"×{number / reference:.2f}" if number is not None and reference else ""


def listed(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def plural(number: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _three_digits(number: float) -> str:
    decimals = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{decimals}f}"
