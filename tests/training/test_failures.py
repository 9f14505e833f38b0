"""What can go wrong in a run: one clear message, and nothing that was saved is lost."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
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
from training.runs import HOST, differences, everything, start


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
    assert re.match(rf"DataError: {out}/(best|last).ckpt cannot be written: \[Errno 27\] File too large", message)
    assert "what was there before is whole" in message
    assert (out / "last.ckpt").read_bytes() == saved
    assert [file.name for file in out.iterdir() if file.name.endswith(".tmp")] == []
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
    with pytest.raises(UsageError, match=r"holds another run: recipe.seed is 0 there, 5 here; choose another folder"):
        train(asked.model_copy(update={"seed": 5}), tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds another run: compile is False there, True here"):
        train(asked, tmp_path / "out", machine=Machine(compile=True))
    host = tmp_path / "host.py"
    host.write_text(HOST.replace("0.2", "0.5"))
    with pytest.raises(UsageError, match=r"holds another run: file is '[0-9a-f]{10,}.*' there"):
        train(asked, tmp_path / "out")
    host.write_text(HOST)
    (tmp_path / "images/train/red/0.png").unlink()
    with pytest.raises(UsageError, match=r"holds another run: statistics is .* there, .* here; digest is "):
        train(asked, tmp_path / "out")
    assert (tmp_path / "out/last.ckpt").read_bytes() == before


def test_data_of_another_number_of_classes_is_named(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    train(asked, tmp_path / "out")
    with pytest.raises(UsageError, match=r"`data` \(='sample'\) has 10 classes, the checkpoint 2"):
        evaluate_checkpoint(tmp_path / "out/last.ckpt", model=asked.model, data="sample")


def test_a_file_of_python_that_a_checkpoint_names_is_run_only_when_the_user_names_it(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    trained = train(asked, tmp_path / "out").evaluation
    ran = tmp_path / "ran"
    (tmp_path / "host.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n{HOST}")
    with pytest.raises(UsageError, match=r"comes from a file of Python, .*/host.py:dropping, which would be run; if"):
        evaluate_checkpoint(tmp_path / "out/last.ckpt")
    assert not ran.exists()
    assert evaluate_checkpoint(tmp_path / "out/last.ckpt", model=asked.model) == trained
    assert ran.exists()
    (tmp_path / "host.py").write_text(HOST.replace("6,", "7,").replace("(6", "(7"))
    with pytest.raises(UsageError, match=r"the weights in .*/last.ckpt are not those of .*/host.py:dropping"):
        evaluate_checkpoint(tmp_path / "out/last.ckpt", model=asked.model)


def test_a_run_that_dies_between_its_two_files_still_leaves_the_best(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    train(asked, tmp_path / "whole")
    context = multiprocessing.get_context("fork")
    for dies_in in ("best.ckpt", "last.ckpt"):
        process = context.Process(target=_train_until_it_writes, args=(asked, tmp_path / dies_in, dies_in))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        train(asked, tmp_path / dies_in)
        for name in ("best.ckpt", "last.ckpt"):
            ours, theirs = (read_checkpoint(tmp_path / run / name) for run in ("whole", dies_in))
            assert differences(ours["state_dict"], theirs["state_dict"]) == []
            assert differences(ours["callbacks"], theirs["callbacks"]) == []
        assert [file.name for file in (tmp_path / dies_in).iterdir() if file.name.endswith(".tmp")] == []


def _train_until_it_writes(asked: Recipe, out: Path, name: str) -> None:
    """Train, and be killed in the middle of the first writing of a file of that name."""
    write = Path.write_bytes

    def dies(path: Path, content: Any) -> int:
        if path.name == f".{name}.tmp":
            write(path, b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, content)

    Path.write_bytes = dies  # pyright: ignore[reportAttributeAccessIssue]
    train(asked, out)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    asked = recipe(tmp_path, epochs=50)
    first = start(asked.model_dump(), tmp_path / "out", 0, 1)
    first.told.recv()  # it trains
    with pytest.raises(UsageError, match=r"`out` \(='.*/out'\): another process trains there; choose another"):
        train(asked, tmp_path / "out")
    assert first.process.pid is not None
    os.kill(first.process.pid, signal.SIGKILL)
    first.until(None)
    with pytest.raises(UsageError, match=r"holds another run: recipe.epochs is 50 there, 51 here"):  # the lock is gone
        train(asked.model_copy(update={"epochs": 51}), tmp_path / "out")


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
    with pytest.raises(TrialError, match=r"^the training loss became nan") as raised:
        fit(Explodes(6), two_classes(), settings, 0, folder=Folder(tmp_path))
    assert str(raised.value).startswith("the training loss became nan in epoch 2, batch 3 (step 7, learning rate 0.25)")
    assert str(raised.value).endswith(f"in another folder; {tmp_path / 'last.ckpt'} is the last good checkpoint")
    saved = read_checkpoint(tmp_path / "last.ckpt")
    assert saved["global_step"] == 4
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    settings = TrainSettings(epochs=1, batch_size=8)
    with pytest.raises(TrialError, match=r"the (weights .* became infinite or no numbers|training loss became)"):
        fit(Explodes(3), two_classes(), settings, 0, folder=Folder(tmp_path, save_every=4))
    with pytest.raises(TrialError, match=r"may help, in another folder$"):
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
    with pytest.raises(TrialError, match=r"^out of memory in epoch 1") as raised:
        fit(Greedy(), two_classes(), TrainSettings(epochs=1, batch_size=8), 0)
    message = str(raised.value)
    assert message.startswith("out of memory in epoch 1, batch 1 (step 1, learning rate ")
    assert "lower batch_size (=8), with accumulate=2 for the same step" in message


class Broken(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")


class GreedyLater(Greedy):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3))) if self.training else super().forward(x)


def test_out_of_memory_after_the_training_says_in_what(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=r"^out of memory in the validation after epoch 1: lower batch_size \(=8\)"):
        fit(GreedyLater(), two_classes(), TrainSettings(epochs=1, batch_size=8), 0)


def test_any_other_failure_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"):
        fit(Broken(3, 2), two_classes(), TrainSettings(epochs=1), 0)


@pytest.mark.parametrize(
    "options", [{"accelerator": "gpuu"}, {"devices": "many"}, {"strategy": "dpp"}, {"accelerator": "mps"}], ids=str
)
def test_a_machine_that_is_not_there_is_a_mistake_of_the_user(options: dict) -> None:
    with pytest.raises(UsageError, match="Lightning cannot run this: "):
        fit(nn.Linear(192, 2), two_classes(), TrainSettings(epochs=1), 0, machine=Machine(**options))


def test_synchronised_batchnorm_is_for_gpus() -> None:
    with pytest.raises(UsageError, match=r"`sync_batchnorm` \(=True\) needs GPUs"):
        fit(nn.Linear(192, 2), two_classes(), TrainSettings(epochs=1), 0, machine=Machine("cpu", sync_batchnorm=True))


def test_processes_that_torchrun_started_and_nobody_asked_for_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**words, "TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"`devices` \(=1\) x `num_nodes` \(=1\) is 1, but torchrun has started 2"):
        fit(nn.Linear(192, 2), two_classes(), TrainSettings(epochs=1), 0, machine=Machine("cpu"))


def test_under_slurm_a_run_goes_on_from_its_own_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(tmp_path)
    train(asked.model_copy(update={"seed": 7}), tmp_path / "other")
    for folder in (tmp_path, tmp_path / "out"):
        folder.mkdir(exist_ok=True)
        (folder / "hpc_ckpt_1.ckpt").write_bytes((tmp_path / "other/last.ckpt").read_bytes())
    plain = train(asked, tmp_path / "plain").evaluation
    monkeypatch.chdir(tmp_path)
    for name, value in {"NTASKS": "1", "NTASKS_PER_NODE": "1", "JOB_NAME": "train", "JOB_ID": "5", "PROCID": "0",
                        "LOCALID": "0", "NODEID": "0", "NNODES": "1", "NODELIST": "here"}.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert train(asked, tmp_path / "out").evaluation == plain
    assert read_checkpoint(tmp_path / "out/last.ckpt")["saccade"]["recipe"]["seed"] == 0


def test_synchronised_batchnorm_comes_before_attention(tmp_path: Path) -> None:
    asked = recipe(tmp_path, attention=[{"name": "se", "at": "norm", "start": "identity"}])
    data = two_classes()
    model = build(asked, data, sync_batchnorm=True)
    assert [type(m).__mro__[1:3] for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    plain = build(asked, data)
    assert sorted(model.state_dict()) == sorted(plain.state_dict())
    assert saccade.plan_of(model) == saccade.plan_of(plain)
