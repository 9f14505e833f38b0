"""`saccade train RECIPE --dry-run`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from saccade.cli import dry_run, main
from training.runs import image_folder


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    images = image_folder(tmp_path / "images", train=12, others=4)
    settings = [f"data=imagefolder:{images}", "image_size=12", "epochs=2", "batch_size=8", "attention=[{'name': 'se'}]"]
    out = str(tmp_path / "out")
    return ["train", "sample-resnet8", "--dry-run", "--out", out, "--accelerator", "cpu", *sets(*settings)]


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def run(words: list[str], monkeypatch, capsys, status: int = 0) -> tuple[list[str], str]:
    monkeypatch.setattr("sys.argv", ["saccade", *words])
    with pytest.raises(SystemExit, match=rf"^{status}$"):
        main()
    out, error = capsys.readouterr()
    return out.splitlines(), error


def test_it_tells_what_a_training_would_be_and_leaves_nothing(tmp_path: Path, words: list[str], monkeypatch, capsys):
    lines, _ = run([*words, *sets("schedule.warmup=0.5")], monkeypatch, capsys)
    assert lines[0].startswith("saccade:cifar_resnet(depth=8")
    assert lines[1] == "  se at 3 sites"
    assert lines[3] == f"imagefolder:{tmp_path / 'images'}: 24 images to train on, 2 classes"
    assert lines[4] == "2 epochs of 3 batches of 8: 6 steps by sgd"
    assert lines[5] == "learning rate: 0.0333 at step 1, 0.1 at step 4, 0.025 at step 6"
    assert re.fullmatch(r"a step of 8 images takes \d+ ms on this cpu in 32-true", lines[6])
    assert re.fullmatch(r"\d+ s in all, without reading images and validation", lines[7])
    assert not (tmp_path / "out").exists()


def test_a_rate_that_stays_is_told_from_a_step_and_one_that_moves_at_it(words: list[str], monkeypatch, capsys):
    step = sets("epochs=4", "schedule={'name': 'step', 'warmup': 0.25, 'milestones': (0.5, 0.75)}")
    assert "learning rate: 0.0333 at step 1, 0.1 from step 4, 0.01 from step 7, 0.001 from step 10" in run(
        [*words, *step], monkeypatch, capsys
    )[0]  # fmt: skip
    constant = sets("schedule={'name': 'constant', 'warmup': 0.0}")
    assert "learning rate: 0.1 from step 1" in run([*words, *constant], monkeypatch, capsys)[0]
    # Five of six steps have passed at the last one: 0.1 * 0.01 ** (5 / 6).
    falling = sets("schedule={'name': 'exponential', 'warmup': 0.0}")
    assert "learning rate: 0.1 at step 1, 0.00215 at step 6" in run([*words, *falling], monkeypatch, capsys)[0]


def test_fewer_images_than_a_batch_are_one_batch_as_in_the_training(words: list[str], monkeypatch, capsys):
    lines, _ = run([*words, *sets("batch_size=64")], monkeypatch, capsys)
    assert "2 epochs of 1 batch of 24 (all there are, not 64): 2 steps by sgd" in lines
    assert re.fullmatch(r"\d+ s in all, if one of 24 takes 3 times that \(a GPU takes less\), .*", lines[-1])


def test_a_step_is_taken_as_the_training_would(words: list[str], monkeypatch, capsys):
    seen, compiled = [], []
    loss = torch.nn.functional.cross_entropy

    def recording(logits, labels):
        seen.append(logits.dtype)
        return loss(logits, labels)

    monkeypatch.setattr(dry_run.F, "cross_entropy", recording)
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    lines, _ = run([*words, "--compile", *sets("precision=bf16-mixed")], monkeypatch, capsys)
    assert set(seen) == {torch.bfloat16}
    assert len(compiled) == 1
    assert lines[-2].endswith(" ms on this cpu in bf16-mixed, compiled")
    _, error = run([*words, "--accelerator", "abacus"], monkeypatch, capsys, status=2)
    assert "Lightning cannot run this" in error


def test_batches_are_shared_by_processes(words: list[str], monkeypatch, capsys):
    lines, _ = run([*words, "--devices", "2", "--strategy", "ddp", *sets("batch_size=4")], monkeypatch, capsys)
    assert "2 epochs of 3 batches of 4 in each of 2 processes: 6 steps by sgd" in lines


@pytest.mark.parametrize(
    ("recipe", "sizes"),
    [
        ("cifar100-resnet20", "45000 images to train on, 100 classes (as published: the images are not read)"),
        ("imagenet-mnasnet", "1281167 images to train on, 1000 classes (as published: there is no folder imagenet)"),
    ],
)
def test_what_papers_train_on_need_not_be_there(recipe: str, sizes: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = sets("model=saccade:cifar_resnet(depth=8)", "image_size=32", "optim={'lr': 0.1}")
    lines, _ = run(["train", recipe, "--dry-run", "--accelerator", "cpu", *small], monkeypatch, capsys)
    assert lines[2].endswith(f": {sizes}")
    assert any("for an image of 3 x 32 x 32" in each for each in lines)
    assert not list(tmp_path.iterdir())


def test_imagenet_that_is_there_is_read(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "imagenet", train=8, others=2)
    small = sets("model=saccade:cifar_resnet(depth=8)", "image_size=12", "optim={'lr': 0.1}", "batch_size=8")
    lines, _ = run(["train", "imagenet-mnasnet", "--dry-run", *small], monkeypatch, capsys)
    assert "imagefolder:imagenet,test=val: 16 images to train on, 2 classes" in lines


def test_a_folder_that_the_user_names_must_be_there(words: list[str], monkeypatch, capsys):
    _, error = run([*words, *sets("data=imagefolder:photos")], monkeypatch, capsys, status=2)
    assert error.startswith("saccade: there is no folder photos")
