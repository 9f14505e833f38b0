"""CPU time of starting: the bare interpreter, ``import saccade``, ``saccade --help``.

``uv run python benchmarks/startup.py`` writes benchmarks/results/startup.json. What these processes load is tested in
tests/test_imports.py; how long that takes depends on the machine, so it is measured here and asserted nowhere.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "startup.json"
RUNS = 9
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import saccade": ["-c", "import saccade"],
    "saccade --help": ["-m", "saccade.cli", "--help"],
}


def cpu_seconds(arguments: list[str]) -> float:
    """User and system CPU time of one run of this interpreter, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(arguments: list[str]) -> dict[str, float]:
    """Median and range over the runs, after one that fills the caches."""
    cpu_seconds(arguments)
    seconds = [cpu_seconds(arguments) for _ in range(RUNS)]
    return {name: round(f(seconds), 4) for name, f in (("median", statistics.median), ("min", min), ("max", max))}


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure all, write the file, print a line for each."""
    result = {
        "schema": "saccade.benchmark/1",
        "name": "startup",
        "unit": "CPU seconds, user and system",
        "runs": RUNS,
        "results": {name: measure(arguments) for name, arguments in COMMANDS.items()},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("saccade", "torch", "typer")},
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, seconds in result["results"].items():
        print(f"{name:16} {seconds['median']:.3f} s  ({seconds['min']:.3f} to {seconds['max']:.3f})")


if __name__ == "__main__":
    main()
