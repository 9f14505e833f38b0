"""The matrix of hosts in a few numbers, and its failures by reason."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any


def summarise(hosts: dict[str, Any]) -> dict[str, Any]:
    """Shares of hosts for each aim, and what failed, with the cells."""
    run = {name: entry for name, entry in hosts.items() if "mechanisms" in entry}
    works = {name: [m for m, cell in entry["mechanisms"].items() if not cell["failed"]] for name, entry in run.items()}
    mechanisms = list(next(iter(run.values()))["mechanisms"]) if run else []
    adding = [entry for entry in run.values() if entry["residual_additions"]]
    return {
        "hosts": len(hosts),
        "hosts_that_ran": len(run),
        "every_mechanism_works_at_some_site": share(
            sum(len(works[name]) == len(mechanisms) for name in run), len(hosts)
        ),
        "some_mechanism_works_at_some_site": share(sum(bool(works[name]) for name in run), len(hosts)),
        "by_mechanism": {
            mechanism: share(sum(mechanism in works[name] for name in run), len(hosts)) for mechanism in mechanisms
        },
        "hosts_with_residual_additions": len(adding),
        "of_those_with_residual_sites": share(sum(entry["with_a_site"] > 0 for entry in adding), len(adding)),
        "of_those_with_all_of_them": share(
            sum(entry["with_a_site"] == entry["residual_additions"] for entry in adding), len(adding)
        ),
        "additions_without_a_site": without_a_site(run),
        "failures": failures(hosts),
    }


def share(count: int, total: int) -> str:
    """Such as ``49 of 50 (98.0 %)``."""
    return f"{count} of {total} ({100 * count / max(1, total):.1f} %)"


def without_a_site(run: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Reasons, and how many additions of which host."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for name, entry in run.items():
        for reason in entry.get("without_a_site", ()):
            found[reason][name] = found[reason].get(name, 0) + 1
    return dict(found)


def failures(hosts: dict[str, Any]) -> dict[str, list[str]]:
    """Each reason, names and numbers left out of it, with the host and mechanism of every cell."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, entry in hosts.items():
        if "failed" in entry:
            found[f"host: {plain(entry['failed'])}"].append(name)
        for mechanism, cell in entry.get("mechanisms", {}).items():
            for tried in (cell, *cell.get("also_tried", ())):
                for check in tried["failed"]:
                    reason = f"{check}: {plain(tried[check])}" if check in tried else check
                    worked = "" if cell["failed"] else f", works at {cell['at']}{' again' * cell.get('again', False)}"
                    note = "" if tried is cell else f" at {tried['at']}{worked}"
                    found[reason].append(f"{name} {mechanism}{note}")
    return dict(found)


def plain(reason: str) -> str:
    """A reason without what differs from host to host."""
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r"'[^']*'", "'...'", reason))
