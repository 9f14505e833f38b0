"""CPU time of starting: the bare interpreter, ``import saccade``, ``saccade --help``.

``uv run python benchmarks/startup.py`` writes benchmarks/results/startup.json. What these processes load is tested in
tests/test_imports.py; how long that takes depends on the machine, so it is measured here and asserted nowhere.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from common import write_result

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


def main() -> None:
    """Measure all, write the file, print a line for each."""
    results = {name: measure(arguments) for name, arguments in COMMANDS.items()}
    write_result(
        "startup",
        ("saccade", "torch", "typer"),
        unit="CPU seconds, user and system",
        runs=RUNS,
        results=results,
    )
    for name, seconds in results.items():
        print(f"{name:16} {seconds['median']:.3f} s  ({seconds['min']:.3f} to {seconds['max']:.3f})")


if __name__ == "__main__":
    main()
