"""Two processes compute what one does with the doubled batch."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training.runs import differences, image_folder

# Lightning starts the other process with the words of this one, so that the run must be a command of its own.
HOST = """
from torch import nn

def grouped(in_channels, num_classes):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, num_classes),
    )

def frozen(in_channels, num_classes):
    host = grouped(in_channels, num_classes)
    for number in (1, 4):
        host[number] = FrozenBatchNorm(8)
    return host

class FrozenBatchNorm(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)
"""


def command(folder: Path, out: Path, host: str, batch_size: int, *words: str) -> list[str]:
    settings = {
        "model": f"{folder / 'host.py'}:{host}",
        "attention": "[{'name': 'se', 'at': 'conv', 'start': 'identity'}]",
        "data": f"imagefolder:{folder / 'images'}",
        "image_size": 12,
        "epochs": 2,
        "batch_size": batch_size,
        "ema": 0.9,
        "augment.crop": 2,
    }
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    start = [sys.executable, "-m", "saccade.cli", "train", "sample-resnet8", "--out", str(out)]
    return [*start, "--accelerator", "cpu", "--logger", "none", "--save-every", "2", *given, *words]


def run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(out: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    with (out / "metrics.csv").open() as file:
        return torch.load(out / "last.ckpt", weights_only=True), list(csv.DictReader(file))


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_two_and_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / "host.py").write_text(HOST)
    image_folder(tmp_path / "images", train=26, others=6)
    words = command(tmp_path, tmp_path / "two", "grouped", 8, "--devices", "2", "--strategy", "ddp")
    # The fourth of six steps is saved; the processes end by a signal a moment later, while the fifth is on its way.
    killed = subprocess.Popen([sys.executable, "-c", KILLED_AT, str(tmp_path / "two/last.ckpt"), *words])
    assert killed.wait(300) == 0
    refused = subprocess.run(words[:-4], capture_output=True, text=True, check=False, timeout=300)
    assert refused.returncode == 2
    assert "holds another run: processes is 2 there, 1 here" in refused.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29655"]
    printed = run([*torchrun, "-m", "saccade.cli", *words[3:]])
    assert printed.count("top-1") == 1
    run(command(tmp_path, tmp_path / "whole", "grouped", 8, "--devices", "2", "--strategy", "ddp"))
    (ours, our_rows), (theirs, their_rows) = read(tmp_path / "two"), read(tmp_path / "whole")
    assert differences(ours["state_dict"], theirs["state_dict"]) == []
    assert our_rows == their_rows


# Starts a command as a group of its own, and kills the group when a file was written for the second time.
KILLED_AT = """
import os, signal, subprocess, sys, time
path, words = sys.argv[1], sys.argv[2:]
process = subprocess.Popen(words, start_new_session=True)
seen = set()
while len(seen) < 2:
    assert process.poll() is None, "ended too early"
    if os.path.exists(path):
        seen.add(os.stat(path).st_mtime_ns)
    time.sleep(0.001)
os.killpg(process.pid, signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("host", ["grouped", "frozen"])
def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path, host: str) -> None:
    (tmp_path / "host.py").write_text(HOST)
    images = image_folder(tmp_path / "images", train=26, others=6)
    (images / "val/red/0.png").unlink()  # 11 images: the two processes have 6 and 5
    (images / "test/red/0.png").unlink()
    run(command(tmp_path, tmp_path / "one", host, 16))
    printed = run(command(tmp_path, tmp_path / "two", host, 8, "--devices", "2", "--strategy", "ddp"))
    assert printed.count("top-1") == 1, "the first process alone tells"
    (ours, our_rows), (theirs, their_rows) = read(tmp_path / "one"), read(tmp_path / "two")
    assert ours["global_step"] == theirs["global_step"] == 6
    for name, value in ours["state_dict"].items():
        # Sums of gradients in another order: a few units in the last place, after six steps.
        torch.testing.assert_close(theirs["state_dict"][name], value, rtol=2e-5, atol=2e-6, msg=name)
    for one, two in zip(our_rows, their_rows, strict=True):
        assert float(two["train_loss"]) == pytest.approx(float(one["train_loss"]), rel=1e-5)
        assert two["val_accuracy"] == one["val_accuracy"]
        assert (two["epoch"], two["step"], two["lr"]) == (one["epoch"], one["step"], one["lr"])
