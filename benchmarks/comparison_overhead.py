"""What a comparison costs beside the same trainings written bare in PyTorch, in processor time.

``uv run python benchmarks/comparison_overhead.py`` writes benchmarks/results/comparison_overhead.json. Leave the
machine alone meanwhile. The comparison is the default one, all of it: reading images, measuring costs, starting
processes, training, checkpoints, scoring, verdicts, the report; ``--epochs`` makes it longer, and each length is kept.
The bare loops train and score the same networks for as many steps, as many at a time, and count only the time within
the loops. All in one run: half of the bare loops, a comparison, the other half; ``--repeats`` times over, since a
machine's speed drifts by a few percent from minute to minute. What disturbs only ever adds: the ratio is that of the
least times of each, and all of them are kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, write_result
from torch import Tensor, nn

import saccade
from saccade.comparison.record import read_record
from saccade.comparison.trial import build_variant
from saccade.data import load_data
from saccade.training import accuracy

NAME, AT_ONCE = "comparison_overhead", 2


def main() -> None:
    """Bare loops for half of the seeds, the comparison, bare loops for the other half; and the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    file = RESULTS / f"{NAME}.json"
    found = json.loads(file.read_text(encoding="utf-8"))["comparisons"] if file.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        settle(out, given.epochs)
        record = read_record(out)
        trials = [(out, variant.name, seed) for seed in record.asked.seeds for variant in record.asked.variants]
        middle, compared, bare = len(trials) // 2, [], []
        for repeat in range(given.repeats):
            first = bare_seconds(trials[:middle])
            compared.append(compared_seconds(Path(scratch) / f"timed-{repeat}", given.epochs))
            bare.append(first + bare_seconds(trials[middle:]))
    found[f"{given.epochs} epochs"] = {
        "comparison_cpu_s": [round(each, 1) for each in compared], "bare_cpu_s": [round(each, 1) for each in bare],
        "ratio": round(min(compared) / min(bare), 4),
    }  # fmt: skip
    path = write_result(
        NAME, ("saccade", "torch", "lightning"),
        model=record.asked.model, variants=[variant.name for variant in record.asked.variants],
        trials=len(trials), batch_size=record.asked.settings.batch_size, at_once=AT_ONCE, comparisons=found,
    )  # fmt: skip
    print(path.read_text(encoding="utf-8"))


def settle(out: Path, epochs: int) -> None:
    """A comparison's record, by one that ends before its first trial."""

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        saccade.compare(out=out, epochs=epochs, on_setting=stop)


def compared_seconds(out: Path, epochs: int) -> float:
    """Processor time of the comparison."""
    before = children_seconds()
    words = ["--epochs", str(epochs), "--jobs", str(AT_ONCE), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "saccade.cli", "compare", *words], check=True, stdout=subprocess.DEVNULL)
    return children_seconds() - before


def children_seconds() -> float:
    """Processor time of all processes that were started here and have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bare_seconds(trials: list[tuple[Path, str, int]]) -> float:
    """Processor time of the loops."""
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(bare, *zip(*trials, strict=True)))


def bare(out: Path, name: str, seed: int) -> float:
    """One training as one writes it: shuffle, mirror, normalise, step, schedule, validate; at the end, the test."""
    torch.set_num_threads(1)
    asked, data = read_record(out).asked, load_data("sample")
    model, settings = build_variant(asked, asked.variant(name), data, seed), asked.settings
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    started = time.process_time()
    images, labels = data.normalise(data.train.images), data.train.labels  # pyright: ignore[reportArgumentType]
    optim, size = settings.optim, settings.batch_size
    optimiser = torch.optim.SGD(
        model.parameters(), lr=optim.lr, momentum=0.9, nesterov=True, weight_decay=optim.weight_decay
    )
    steps = settings.epochs * (len(labels) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, optim.lr, steps, pct_start=0.1, cycle_momentum=False)
    for _ in range(settings.epochs):
        model.train()
        losses: list[Tensor] = []
        order = torch.randperm(len(labels))
        for rows in order[: len(order) // size * size].split(size):
            batch = images[rows].contiguous(memory_format=torch.channels_last)
            batch = torch.where(torch.rand(size, 1, 1, 1) < 0.5, batch.flip(3), batch)
            loss = nn.functional.cross_entropy(model(batch), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        float(torch.stack(losses).mean())
        accuracy(model, data, "val")
    accuracy(model, data, "test")
    return time.process_time() - started


if __name__ == "__main__":
    main()
