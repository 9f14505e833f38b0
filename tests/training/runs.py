"""Runs of the training engine in processes of their own, which can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saccade.training.fit import Machine
from saccade.training.recipe import Recipe
from saccade.training.run import train

HOST = """
from torch import nn

def dropping(in_channels, num_classes):
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2),
        nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, num_classes),
    )
"""


def image_folder(root: Path, train: int = 44, others: int = 10, side: int = 12) -> Path:
    """Random images of two classes, one with more red, one with more green."""
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("val", others), ("test", others)):
        for channel, name in enumerate(("red", "green")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 200, (side, side, 3))
                pixels[..., channel] += 40
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def everything(folder: Path) -> dict[str, Any]:
    """A recipe that uses all that has a state: momentum, average, schedule, dropout, mixup, accumulation."""
    (folder / "host.py").write_text(HOST)
    return {
        "model": f"{folder / 'host.py'}:dropping",
        "attention": [{"name": "se", "at": "conv", "start": "identity"}],
        "data": f"imagefolder:{image_folder(folder / 'images')}",
        "image_size": 12,
        "epochs": 4,
        "batch_size": 8,
        "accumulate": 2,
        "clip": 1.0,
        "ema": 0.9,
        "attention_first": 1,
        "optim": {"lr": 0.05, "attention_lr": 0.1},
        "augment": {"crop": 2, "policy": "trivial", "erase": 0.3, "mixup": 0.4, "cutmix": 1.0, "resized_crop": 0.5},
    }


def start(recipe: dict[str, Any], out: Path, workers: int, save_every: int) -> Run:
    """Train in a process of its own, a copy of this one, which saves the seconds that imports take."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(recipe, out, workers, save_every, theirs))
    process.start()
    theirs.close()
    return Run(process, ours)


def _train(recipe: dict[str, Any], out: Path, workers: int, save_every: int, told: Connection) -> None:
    torch.set_num_threads(1)
    machine = Machine(workers=workers)
    asked = Recipe.model_validate(recipe)
    train(asked, out, machine=machine, save_every=save_every, on_batch=lambda done, total: told.send(done))


@dataclass
class Run:
    """A training in another process, which says what batches are done."""

    process: BaseProcess
    told: Connection

    def until(self, batch: int | None, number: int = signal.SIGKILL) -> int:
        """Send a signal when that batch is done, or let it end; the number of batches that it said to have done."""
        done = 0
        while True:
            try:
                done = self.told.recv()
            except EOFError:
                break
            if done == batch and self.process.pid:
                os.kill(self.process.pid, number)
        self.process.join()
        return done


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two contents of checkpoints are not the same, bit for bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        found = [] if list(first) == list(second) else [f"{path}: {list(first)} and {list(second)}"]
        return found + [
            each for key in first if key in second for each in differences(first[key], second[key], f"{path}/{key}")
        ]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        found = [] if len(first) == len(second) else [f"{path}: {len(first)} and {len(second)}"]
        pairs = enumerate(zip(first, second, strict=False))
        return found + [each for number, (a, b) in pairs for each in differences(a, b, f"{path}/{number}")]
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
    else:
        same = type(first) is type(second) and first == second
    return [] if same else [f"{path}: {first} and {second}"]
