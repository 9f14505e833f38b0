"""A run that is killed, again and again, ends as one that never was."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import torch

from training.runs import differences, everything, start

BATCHES = 4 * 11  # of everything(): 88 images in batches of 8, four epochs
KEPT = ("state_dict", "optimizer_states", "lr_schedulers", "losses", "callbacks", "saccade", "epoch", "global_step")


def check_same(whole: Path, other: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (torch.load(run / name, weights_only=True) for run in (whole, other))
        assert differences({key: ours[key] for key in KEPT}, {key: theirs[key] for key in KEPT}) == []
    assert (other / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert (whole / "metrics.csv").read_text().count("\n") == 5


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return everything(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(recipe: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run = start(recipe, out, 0, 3)
    assert run.until(None) == BATCHES
    assert run.process.exitcode == 0
    return out


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_at_five_random_batches_ends_bit_for_bit_as_one_that_never_was(
    tmp_path: Path, recipe: dict, whole: Path, workers: int
) -> None:
    # Batch 11 is the last of an epoch: what is saved there must know that the epoch's end is still to come.
    kills = sorted({11, *random.Random(workers).sample(range(3, BATCHES), 5)})
    for batch in kills:
        run = start(recipe, tmp_path, workers, 3)
        run.until(batch)
        assert run.process.exitcode == -signal.SIGKILL
    last = start(recipe, tmp_path, workers, 3)
    last.until(None)
    assert last.process.exitcode == 0
    check_same(whole, tmp_path)


def test_checkpoints_within_an_epoch_change_no_number(tmp_path: Path, recipe: dict, whole: Path) -> None:
    run = start(recipe, tmp_path, 0, 1000)
    run.until(None)
    assert run.process.exitcode == 0
    check_same(whole, tmp_path)


def test_ctrl_c_saves_the_step_and_the_run_goes_on_from_it(tmp_path: Path, recipe: dict, whole: Path) -> None:
    run = start(recipe, tmp_path, 0, 1000)
    run.until(17, signal.SIGINT)
    assert run.process.exitcode == 1  # of a KeyboardInterrupt that nobody caught
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] in (9, 10)
    again = start(recipe, tmp_path, 0, 1000)
    assert again.until(None) == BATCHES
    check_same(whole, tmp_path)


def test_a_finished_run_is_not_trained_again(tmp_path: Path, recipe: dict, whole: Path) -> None:
    before = (whole / "last.ckpt").read_bytes()
    run = start(recipe, whole, 0, 3)
    assert run.until(None) == 0
    assert run.process.exitcode == 0
    assert (whole / "last.ckpt").read_bytes() == before
