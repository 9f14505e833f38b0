"""The answer of a comparison in one sentence, from its verdicts. It says no more than they do."""

from __future__ import annotations

from saccade.report.entries import Entry, entries, finished
from saccade.report.numbers import listed, plural
from saccade.report.results import HELPS, HURTS, NO_DIFFERENCE, TOO_FEW, Results

# A sentence with more names than this would be a table.
MOST_NAMES = 4


def answer(results: Results) -> str:
    """One sentence: what helped, what did not, what is undecided, what failed.

    "On this data none of 4 attentions was shown to help; se and sem hurt; gam needs about 14 seeds to decide."
    """
    shown = entries(results)
    compared = [entry for entry in shown if entry.role == "variant"]
    baseline = next((entry for entry in shown if entry.role == "baseline"), None)
    if not compared:
        return f"Only the baseline {results.baseline} was trained, so there is nothing to compare."
    if baseline is None or baseline.variant.mean is None:
        return f"No verdict: the baseline {results.baseline} has no finished trial to compare with."
    if not any(_verdict(entry) for entry in compared):
        ending = f"; {plural(len(results.failed), 'trial')} failed" if results.failed else ""
        return f"No verdict on {_subject(compared, len(compared))[0]}{ending}."
    return _sentence(results, compared, [entry for entry in shown if entry.role == "control"])


def _sentence(results: Results, compared: list[Entry], controls: list[Entry]) -> str:
    total = len(compared)
    clauses: list[str] = []
    groups = {word: [e for e in compared if _verdict(e) == word] for word in (HELPS, HURTS, NO_DIFFERENCE, TOO_FEW)}
    if not groups[HELPS] and not any(len(group) == total for group in groups.values()):
        clauses.append(f"none of {total} attentions was shown to help")
    if len(groups[TOO_FEW]) == total:
        clauses.append("nothing is decided yet")
    for word, group in groups.items():
        if group:
            clauses.append(_clause(word, group, total, results.margin))
    clauses += [
        _beside(control, word, helped) for control in controls for word, helped in _by_word(groups[HELPS], control)
    ]
    silent = [e for e in compared if _verdict(e) is None]
    if silent:
        subject, many = _subject(silent, total)
        clauses.append(f"{subject} {'have' if many else 'has'} no verdict")
    clauses += [_control_clause(e) for e in controls if _verdict(e) in (HELPS, HURTS)]
    if results.failed:
        clauses.append(f"{plural(len(results.failed), 'trial')} failed")
    return f"On this data {'; '.join(clauses)}."


def _verdict(entry: Entry) -> str | None:
    """The verdict, if any trial stands behind it: "too few runs" of none at all is no call for more seeds."""
    return entry.variant.verdict if finished(entry) else None


def _clause(verdict: str, group: list[Entry], total: int, margin: float) -> str:
    subject, many = _subject(group, total)
    if verdict == TOO_FEW:
        return _too_few(group, subject, many)
    verb = {HELPS: "helped", HURTS: "hurt", NO_DIFFERENCE: f"showed no difference (within ±{margin:g} points)"}[verdict]
    return f"{subject} {verb}"


def _too_few(group: list[Entry], subject: str, many: bool) -> str:
    seeds = [entry.variant.seeds_to_decide for entry in group]
    if not many:
        return f"{subject} needs {'more' if seeds[0] is None else f'about {seeds[0]}'} seeds to decide"
    if None in seeds or len(group) > MOST_NAMES:
        return f"{subject} need more seeds to decide"
    wanted = [f"{entry.label} about {number}" for entry, number in zip(group, seeds, strict=True)]
    return f"more seeds are needed to decide ({', '.join(wanted)})"


def _by_word(helped: list[Entry], control: Entry) -> list[tuple[str, list[Entry]]]:
    """Those that helped beside the baseline, by what they do beside a control."""
    words: dict[str, list[Entry]] = {}
    for entry in helped:
        if (beside := entry.variant.against.get(control.variant.name)) is not None:
            word = {HELPS: "helped too", HURTS: "hurt"}.get(beside.verdict, "not shown to help")
            words.setdefault(word, []).append(entry)
    return list(words.items())


def _beside(control: Entry, word: str, group: list[Entry]) -> str:
    """``beside longer (control) se and gam helped too``."""
    subject, many = listed([entry.label for entry in group]), len(group) > 1
    verb = f"{'were' if many else 'was'} {word}" if word.startswith("not") else word
    return f"beside {control.label} {subject} {verb}"


def _control_clause(control: Entry) -> str:
    verb = "helped" if control.variant.verdict == HELPS else "hurt"
    return f"{control.label}, which has no attention, {verb}"


def _subject(group: list[Entry], total: int) -> tuple[str, bool]:
    """The group in words, and whether that is a plural."""
    many = len(group) > 1
    if many and len(group) == total:
        return ("both attentions" if total == 2 else f"all {total} attentions"), True
    if len(group) > MOST_NAMES:
        return f"{len(group)} attentions", True
    return listed([entry.label for entry in group]), many
