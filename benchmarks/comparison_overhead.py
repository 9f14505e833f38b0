"""What a comparison costs beside the same trainings written bare in PyTorch, in processor time.

``uv run python benchmarks/comparison_overhead.py`` writes benchmarks/results/comparison_overhead.json. It needs two
cores; leave the machine alone meanwhile. The comparison is the default one, all of it: imports, reading images,
measuring costs, starting processes, training, checkpoints, scoring, verdicts, the report; ``--epochs`` makes it longer,
and each length is kept. The bare loops train and score the same networks for as many steps, and count only the time
within the loops, no import. Both are started as one starts them, without settings of threads' or memory's in the
environment, and run at the same moment, one training at a time each: a machine's speed drifts by a tenth from minute to
minute, for both alike. ``--repeats`` times over; the ratio is that of the sums.
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
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, write_result
from torch import Tensor, nn

import saccade
from saccade.comparison.record import read_record
from saccade.comparison.trial import Trial, build_variant
from saccade.data import load_data
from saccade.training import accuracy

NAME = "comparison_overhead"


def main() -> None:
    """Both at once, as often as asked; and the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    file = RESULTS / f"{NAME}.json"
    found = json.loads(file.read_text(encoding="utf-8"))["comparisons"] if file.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        settle(out, given.epochs)
        asked = read_record(out).asked
        times = [both_seconds(out, Path(scratch) / f"timed-{repeat}", given.epochs) for repeat in range(given.repeats)]
    compared, bare = zip(*times, strict=True)
    found[f"{given.epochs} epochs"] = {
        "comparison_cpu_s": [round(each, 1) for each in compared], "bare_cpu_s": [round(each, 1) for each in bare],
        "ratios": [round(one / other, 4) for one, other in times], "ratio": round(sum(compared) / sum(bare), 4),
    }  # fmt: skip
    path = write_result(
        NAME, ("saccade", "torch", "lightning"),
        model=asked.model, variants=[variant.name for variant in asked.variants],
        trials=len(asked.seeds) * len(asked.variants), batch_size=asked.settings.batch_size, comparisons=found,
    )  # fmt: skip
    print(path.read_text(encoding="utf-8"))


def settle(out: Path, epochs: int) -> None:
    """A comparison's record, by one that ends before its first trial."""

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        saccade.compare(out=out, epochs=epochs, on_setting=stop)


def both_seconds(settled: Path, out: Path, epochs: int) -> tuple[float, float]:
    """Processor time of a comparison in ``out``, and of the bare loops of the one that was ``settled``."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    loops = spawn.Process(target=bare_loops, args=(settled, theirs), daemon=True)
    loops.start()
    theirs.close()  # so that the end of the loops is seen, should they fail
    ours.recv()
    words = ["--epochs", str(epochs), "--jobs", "1", "--out", str(out)]
    before = children_seconds()
    subprocess.run([sys.executable, "-m", "saccade.cli", "compare", *words], check=True, stdout=subprocess.DEVNULL)
    compared = children_seconds() - before
    bare = ours.recv()
    ours.send("enough")
    loops.join()
    return compared, bare


def children_seconds() -> float:
    """Processor time of all processes that were started here and have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bare_loops(settled: Path, pipe: Connection) -> None:
    """Tell when the first loop begins, and the processor time of all; keep the core busy until the other is done."""
    import torch._dynamo  # every optimiser of PyTorch imports it, for seconds

    torch.set_num_threads(1)
    request = read_record(settled).asked
    trials = [Trial(variant.name, seed) for seed in request.seeds for variant in request.variants]
    pipe.send("ready")
    pipe.send(sum(bare_seconds(settled, trial) for trial in trials))
    while not pipe.poll():
        bare_seconds(settled, trials[0])


def bare_seconds(settled: Path, trial: Trial) -> float:
    """One training as one writes it: shuffle, mirror, normalise, step, schedule, validate; at the end, the test."""
    asked, data = read_record(settled).asked, load_data("sample")
    model, settings = build_variant(asked, asked.variant(trial.variant), data, trial.seed), asked.settings
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
