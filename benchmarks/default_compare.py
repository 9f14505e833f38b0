"""The default ``saccade compare``, as a newcomer runs it: wall time, memory, scores, verdicts.

``uv run python benchmarks/default_compare.py`` writes benchmarks/results/default_compare.json. Leave the machine alone
meanwhile: it takes minutes, and what else runs is in the numbers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import write_result


def main() -> None:
    """Run it in a new folder, watching the memory of all its processes, and write the file."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "saccade.cli", "compare", "--out", str(out)])
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(resident_kib(pid) for pid in family(process.pid)))
            time.sleep(0.25)
        seconds = time.monotonic() - started
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    variants = {
        variant["name"]: {
            "mean": variant["mean"],
            "scores": variant["scores"],
            "difference": variant["difference"],
            "verdict": variant["verdict"],
            "train_step_ms": variant["train_step_ms"],
        }
        for variant in results["variants"]
    }
    path = write_result(
        "default_compare",
        ("saccade", "torch", "lightning", "scipy"),
        exit_status=process.returncode,
        wall_seconds=round(seconds, 1),
        peak_memory_mib=round(peak / 1024),
        memory="sum over all processes of their proportional share of resident memory (PSS), seen every 0.25 s",
        results=variants,
    )
    print(f"{seconds:.0f} s, {peak / 1024:.0f} MiB; {path}")


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def resident_kib(pid: int) -> int:
    """PSS: a page that several processes share counts once in their sum."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
