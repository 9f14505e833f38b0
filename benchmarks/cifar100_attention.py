"""CIFAR-100 with a small ResNet, plain and with SE, SEM and attention-augmented convolutions, two seeds each.

``uv run python benchmarks/cifar100_attention.py --data imagefolder:PATH`` (or ``--data cifar100``, which downloads)
writes benchmarks/results/cifar100_attention.json; killed, it goes on with the same command. Trainings run on one thread
each, as many at a time as ``--at-once``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from common import write_result

VARIANTS = {
    "none": "[]",
    "se": "[{'name': 'se'}]",
    "sem": "[{'name': 'sem'}]",
    "aaconv": "[{'name': 'aaconv', 'at': 'layer3.*.conv1'}]",
}


def main() -> None:
    """Train what is not trained yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar100_attention"))
    asked = parser.parse_args()
    jobs = [(name, seed, asked) for seed in range(asked.seeds) for name in VARIANTS]
    with ProcessPoolExecutor(asked.at_once, multiprocessing.get_context("spawn")) as pool:
        runs = list(pool.map(one, jobs))
    variants: dict[str, Any] = {}
    for name in VARIANTS:
        mine = [run for run in runs if run["variant"] == name]
        variants[name] = {
            "parameters": mine[0]["parameters"],
            "top1": [run["top1"] for run in mine],
            "top5": [run["top5"] for run in mine],
            "calibration_error": [run["calibration_error"] for run in mine],
            "mean_top1": round(mean(run["top1"] for run in mine), 4),
        }
    path = write_result(
        "cifar100_attention", ("saccade", "torch", "lightning"),
        recipe="cifar100-resnet20", images="45,000 to train on, 5,000 for validation, the official 10,000 for the test",
        epochs=asked.epochs, depth=asked.depth, attention=VARIANTS, variants=variants,
    )  # fmt: skip
    print(path.read_text(encoding="utf-8"))


def changes(name: str, seed: int | str, asked: argparse.Namespace) -> list[str]:
    """What is set in the recipe cifar100-resnet20."""
    return [
        f"model=saccade:cifar_resnet(depth={asked.depth})",
        f"attention={VARIANTS.get(name, name)}",
        f"data={asked.data}",
        f"epochs={asked.epochs}",
        f"seed={seed}",
    ]


def one(job: tuple[str, int, argparse.Namespace]) -> dict[str, Any]:
    """Train one variant with one seed."""
    import torch

    from saccade.recipes import read_recipe
    from saccade.training.recipe import changed
    from saccade.training.run import train

    torch.set_num_threads(1)
    name, seed, asked = job
    recipe = changed(read_recipe("cifar100-resnet20")[0], changes(name, seed, asked))
    started = time.monotonic()

    def told(epoch: Any) -> None:
        print(
            f"{name} {seed}: {epoch}, {time.monotonic() - started:.0f} s, pid {os.getpid()}",
            file=sys.stderr,
            flush=True,
        )

    trained = train(recipe, asked.out / f"{name}-{seed}", save_every=100, on_epoch=told)
    weights = torch.load(trained.out / "last.ckpt", weights_only=True)["state_dict"]
    parameters = sum(v.numel() for k, v in weights.items() if "running" not in k and "num_batches" not in k)
    scores = trained.evaluation
    assert scores is not None, "the only process evaluates"
    return {
        "variant": name,
        "parameters": parameters,
        "top1": scores.top1,
        "top5": scores.top5,
        "calibration_error": round(scores.calibration_error, 4),
    }


if __name__ == "__main__":
    main()
