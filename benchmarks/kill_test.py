"""Runs that are killed: 20 of ``saccade train`` and 20 of ``saccade compare``, at random moments, by SIGKILL.

``uv run python benchmarks/kill_test.py`` writes benchmarks/results/kill_test.json (``--only compare`` keeps what is
there of the other). Each run is killed once, goes on
with the same command, and must end as one that never was: checkpoints and metrics of a training bit for bit, scores and
differences of a comparison. Of a comparison, in turns the whole or one of its workers is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, write_result
from torch import Tensor

NAME = "kill_test"
CLI = [sys.executable, "-m", "saccade.cli"]
TRAIN = [
    "train", "sample-resnet8", "--logger", "none", "--save-every", "20", "--accelerator", "cpu",
    *("--set", "epochs=2", "--set", "ema=0.99", "--set", "augment.crop=2", "--set", "augment.mixup=0.2"),
    *("--set", "attention=[{'name': 'se'}]"),
]  # fmt: skip
COMPARE = ["compare", "--attention", "none,se", "--seeds", "2", "--epochs", "1"]


def main() -> None:
    """Kill, go on, compare, and write what differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", choices=COMMANDS)
    asked = parser.parse_args()
    file = RESULTS / f"{NAME}.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found = {name: found[name] for name in COMMANDS if name in found}
    for name in [asked.only] if asked.only else COMMANDS:
        words, result = COMMANDS[name]
        with tempfile.TemporaryDirectory() as scratch:
            runs = list(measure(name, words, result, Path(scratch), asked.runs))
        same = sum(run["same"] for run in runs)
        found[name] = {"command": " ".join(["saccade", *words]), "same": same, "runs": runs}
        path = write_result(NAME, ("saccade", "torch", "lightning"), **found)
        print(path.read_text(encoding="utf-8"))


def measure(name: str, words: list[str], result: Any, root: Path, runs: int) -> Any:
    """One run that is left alone, then those that are killed."""
    started = time.monotonic()
    subprocess.run([*CLI, *words, "--out", str(root / f"{name}-whole")], check=True, capture_output=True)
    whole, seconds = result(root / f"{name}-whole"), time.monotonic() - started
    for number in range(runs):
        worker = name == "compare" and number % 2 == 1
        # From when it, or its workers, have started to work, about; what ended before the moment came is told as such.
        moment = random.Random(f"{name} {number}").uniform(0.5 if worker else 0.2, 1.0) * seconds
        out = root / f"{name}-{number}"
        status = killed([*CLI, *words, "--out", str(out)], moment, worker=worker)
        again = subprocess.run([*CLI, *words, "--out", str(out)], check=False, capture_output=True, text=True)
        same = again.returncode == 0 and equal(result(out), whole)
        entry = {"killed_after_seconds": round(moment, 1), "of_seconds": round(seconds, 1), **status, "same": same}
        print(name, number, entry, again.stderr[-500:] if again.returncode else "", file=sys.stderr, flush=True)
        yield entry


def killed(command: list[str], moment: float, *, worker: bool) -> dict[str, Any]:
    """Start it, and kill it, or one of its workers, when the moment comes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(moment)
    # Workers are forks of a process that the comparison starts.
    workers = [worker for server in children(process.pid) for worker in children(server)]
    ended = process.poll() is not None
    victim = workers[0] if worker and workers else process.pid
    if not ended:
        os.kill(victim, signal.SIGKILL)
    process.wait()
    return {"victim": "none, it had ended" if ended else "a worker" if victim != process.pid else "the whole"}


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    listed = [file.read_text() for file in Path(f"/proc/{process}/task").glob("*/children")]
    return [int(pid) for pid in " ".join(listed).split()]


def train_result(out: Path) -> Any:
    """All that a training leaves, but for what Lightning counts for itself."""
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "losses", "callbacks", "epoch", "global_step")
    saved = [torch.load(out / name, weights_only=True) for name in ("last.ckpt", "best.ckpt")]
    return [{key: each[key] for key in kept} for each in saved], (out / "metrics.csv").read_text()


def compare_result(out: Path) -> Any:
    """Scores and differences of a comparison."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return [(each["name"], each["scores"], each["difference"], each["verdict"]) for each in results["variants"]]


COMMANDS: dict[str, tuple[list[str], Any]] = {"train": (TRAIN, train_result), "compare": (COMPARE, compare_result)}


def equal(first: Any, second: Any) -> bool:
    """Whether two contents are the same, tensors bit for bit."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(equal(a, b) for a, b in zip(first, second, strict=True))
    return first == second


if __name__ == "__main__":
    main()
