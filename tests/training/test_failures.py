"""What can go wrong in a run: one clear message, and nothing that was saved is lost."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade
from saccade.data import ImageData, Split
from saccade.errors import DataError, TrialError, UsageError
from saccade.training import OptimSettings, ScheduleSettings, TrainSettings
from saccade.training.checkpoints import read_checkpoint
from saccade.training.fit import Folder, Machine, fit
from saccade.training.recipe import Recipe
from saccade.training.run import build, evaluate_checkpoint, train
from training.runs import differences, everything, start


def recipe(folder: Path, **changes: Any) -> Recipe:
    return Recipe.model_validate({**everything(folder), "epochs": 2, **changes})


def two_classes(count: int = 32, side: int = 8) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(count) % 2)
    return ImageData("noise", ["a", "b"], split, split, split)


def in_a_process(work: Callable[[], object]) -> str:
    """What ``work`` raises in a process of its own, as ``Type: message``; limits set there end with it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def run(told: Connection) -> None:
        try:
            work()
            told.send("nothing")
        except Exception as error:  # noqa: BLE001  whatever it is, the test says what it should be
            told.send(f"{type(error).__name__}: {error}")

    process = context.Process(target=run, args=(theirs,))
    process.start()
    theirs.close()
    said = ours.recv()
    process.join()
    return said


def test_a_full_disk_loses_nothing_and_with_room_the_run_goes_on(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    whole, out = tmp_path / "whole", tmp_path / "out"
    train(asked, whole, save_every=2)
    start(asked.model_dump(), out, 0, 2).until(8)
    saved = (out / "last.ckpt").read_bytes()

    def goes_on_with_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(saved) // 2, len(saved) // 2))
        train(asked, out, save_every=2)

    message = in_a_process(goes_on_with_little_room)
    assert message.startswith(f"DataError: {out / 'last.ckpt'} cannot be written: [Errno 27] File too large")
    assert "what was there before is whole" in message
    assert (out / "last.ckpt").read_bytes() == saved
    assert [file.name for file in out.iterdir() if file.name.startswith(".")] == []
    train(asked, out, save_every=2)
    ours, theirs = (read_checkpoint(run / "last.ckpt")["state_dict"] for run in (whole, out))
    assert differences(ours, theirs) == []


@pytest.mark.parametrize("where", ["/dev/null/run", "/proc/run"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(where: str, tmp_path: Path) -> None:
    asked = recipe(tmp_path, data="imagefolder:/nowhere")
    with pytest.raises(DataError, match=rf"`out` \(='{where}'\) cannot be written: .*; choose another folder"):
        train(asked, where)


def test_a_checkpoint_that_was_cut_or_is_another_programs_is_refused_and_stays(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    train(asked, tmp_path / "out")
    last = tmp_path / "out/last.ckpt"
    whole = last.read_bytes()
    for length in (0, 1, 1000, len(whole) - 1):
        last.write_bytes(whole[:length])
        for use in (lambda: train(asked, tmp_path / "out"), lambda: evaluate_checkpoint(last)):
            with pytest.raises(DataError, match=rf"{last} cannot be read as a checkpoint"):
                use()
        assert last.stat().st_size == length
    torch.save({"state_dict": {}, "epoch": 3}, last)
    with pytest.raises(DataError, match=r"is no checkpoint of saccade train: it has no description of schema"):
        train(asked, tmp_path / "out")


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"saccade": {"schema": "saccade.checkpoint/1"}, "bomb": Bomb()}, tmp_path / "bad.ckpt")
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        evaluate_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_another_run_in_the_folder_is_told_and_left_alone(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    train(asked, tmp_path / "out")
    before = (tmp_path / "out/last.ckpt").read_bytes()
    with pytest.raises(UsageError, match=r"holds a run with another recipe; choose another folder"):
        train(asked.model_copy(update={"seed": 5}), tmp_path / "out")
    (tmp_path / "images/train/red/0.png").unlink()
    with pytest.raises(UsageError, match=r"holds a run with another statistics and digest"):
        train(asked, tmp_path / "out")
    assert (tmp_path / "out/last.ckpt").read_bytes() == before


def test_data_of_another_number_of_classes_is_named(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    train(asked, tmp_path / "out")
    with pytest.raises(UsageError, match=r"`data` \(='sample'\) has 10 classes, the checkpoint 2"):
        evaluate_checkpoint(tmp_path / "out/last.ckpt", data="sample")


class Explodes(nn.Module):
    """Gives infinity from a batch on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 8, 2)
        self.at, self.seen = at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        return self.fc(x.flatten(1)) * (float("inf") if self.seen > self.at else 1.0)


def test_a_loss_that_is_no_number_stops_with_step_rate_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    settings = TrainSettings(
        epochs=3, batch_size=8, optim=OptimSettings(lr=0.25), schedule=ScheduleSettings(name="constant", warmup=0)
    )
    with pytest.raises(TrialError) as raised:
        fit(Explodes(6), two_classes(), settings, 0, folder=Folder(tmp_path))
    assert str(raised.value).startswith("the training loss became nan in epoch 2, batch 3 (step 7, learning rate 0.25)")
    assert f"; {tmp_path / 'last.ckpt'} is the last good checkpoint" in str(raised.value)
    saved = read_checkpoint(tmp_path / "last.ckpt")
    assert saved["global_step"] == 4
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    settings = TrainSettings(epochs=1, batch_size=8)
    with pytest.raises(TrialError, match=r"the (weights .* became infinite or no numbers|training loss became)"):
        fit(Explodes(3), two_classes(), settings, 0, folder=Folder(tmp_path, save_every=4))
    assert not (tmp_path / "last.ckpt").exists()


class Greedy(nn.Module):
    """Asks for a petabyte, as a network whose maps are too large does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3))) + torch.empty(1 << 50).sum()


def test_out_of_memory_says_where_and_what_to_lower() -> None:
    with pytest.raises(TrialError) as raised:
        fit(Greedy(), two_classes(), TrainSettings(epochs=1, batch_size=8), 0)
    message = str(raised.value)
    assert message.startswith("out of memory in epoch 1, batch 1 (step 1, learning rate ")
    assert "lower batch_size (=8), with accumulate=2 for the same step" in message


class Broken(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")


def test_any_other_failure_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"):
        fit(Broken(3, 2), two_classes(), TrainSettings(epochs=1), 0)


@pytest.mark.parametrize(
    "options", [{"accelerator": "gpuu"}, {"devices": "many"}, {"strategy": "dpp"}, {"accelerator": "mps"}], ids=str
)
def test_a_machine_that_is_not_there_is_a_mistake_of_the_user(options: dict) -> None:
    with pytest.raises(UsageError, match="Lightning cannot run this: "):
        fit(nn.Linear(192, 2), two_classes(), TrainSettings(epochs=1), 0, machine=Machine(**options))


def test_synchronised_batchnorm_comes_before_attention(tmp_path: Path) -> None:
    asked = recipe(tmp_path, attention=[{"name": "se", "at": "norm", "start": "identity"}])
    data = two_classes()
    model = build(asked, data, sync_batchnorm=True)
    assert [type(m).__mro__[1:3] for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    plain = build(asked, data)
    assert sorted(model.state_dict()) == sorted(plain.state_dict())
    assert saccade.plan_of(model) == saccade.plan_of(plain)
