"""`saccade train` and `saccade evaluate` as a user runs them."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from nets.kept import kept
from saccade.cli import main
from saccade.cli.train import print_evaluation
from saccade.recipes import list_recipes
from saccade.training.checkpoints import read_checkpoint
from saccade.training.evaluate import Evaluation
from terminal import run_on_a_terminal
from training.runs import image_folder


def run(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    monkeypatch.setattr("sys.argv", ["saccade", *words])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    return capsys.readouterr()


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    images = image_folder(tmp_path / "images", train=12, others=4)
    settings = [f"data=imagefolder:{images}", "image_size=12", "epochs=2", "batch_size=8", "attention=[{'name': 'se'}]"]
    return ["train", "sample-resnet8", "--out", str(tmp_path / "out"), *(w for s in settings for w in ("--set", s))]


def test_a_run_prints_its_scores_and_leaves_metrics_checkpoints_and_recipe(
    tmp_path: Path, words: list[str], monkeypatch, capsys
):
    out, error = run(words, monkeypatch, capsys)
    assert "8 images: top-1 " in out
    assert out.endswith(f"{tmp_path / 'out/last.ckpt'}\n")
    assert [line.split()[:2] for line in error.splitlines() if line.startswith("epoch")] == [
        ["epoch", "1/2"],
        ["epoch", "2/2"],
    ]
    with (tmp_path / "out/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"last.ckpt", "best.ckpt", "metrics.csv", "recipe.json"} < names
    [events] = (tmp_path / "out").glob("events.out.tfevents*")
    drawn = {
        (event.step, value.tag): value.simple_value for event in read_events(events) for value in event.summary.value
    }
    for row in rows:
        for name in ("lr", "train_loss", "val_accuracy"):
            assert drawn[int(row["step"]), name] == pytest.approx(float(row[name]))
    assert json.loads((tmp_path / "out/recipe.json").read_text())["epochs"] == 2


def read_events(file: Path) -> list[Any]:
    """What TensorBoard reads: a length, its checksum, an event, its checksum, and so on."""
    content, events = file.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return events


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_terminal_shows_a_bar_with_the_time_left(words: list[str]):
    status, text = run_on_a_terminal([sys.executable, "-m", "saccade.cli", *words])
    assert status == 0, text
    shown = re.findall(r"(\d+)/6 batches +\S+ +(\d+:\d\d|-:--:--|--:--)", text)
    assert shown
    assert "epoch 2/2" in text
    assert "8 images: top-1 " in text


def test_another_logger_goes_by_its_name(tmp_path: Path, words: list[str], monkeypatch, capsys):
    run([*words, "--logger", "csv"], monkeypatch, capsys)
    [file] = (tmp_path / "out").glob("lightning_logs/*/metrics.csv")
    with file.open() as opened, (tmp_path / "out/metrics.csv").open() as ours:
        for theirs, row in zip(csv.DictReader(opened), csv.DictReader(ours), strict=True):
            assert float(theirs["train_loss"]) == pytest.approx(float(row["train_loss"]))


def test_the_recipe_of_fine_tuning_trains_attention_and_the_new_head_first(tmp_path: Path, monkeypatch, capsys):
    weights = kept("resnet18", tmp_path, monkeypatch)
    images = image_folder(tmp_path / "images", train=12, others=4)
    settings = [f"data=imagefolder:{images}", "model=torchvision:resnet18", "image_size=32", "epochs=1", "batch_size=8",
                "attention_first=1"]  # fmt: skip
    run(
        ["train", "finetune", "--out", str(tmp_path / "out"), *(w for s in settings for w in ("--set", s))],
        monkeypatch,
        capsys,
    )
    saved = read_checkpoint(tmp_path / "out/last.ckpt")
    state = {name.removeprefix("model."): value for name, value in saved["state_dict"].items()}
    moved = {
        name
        for name, value in weights.items()
        if value.shape != state[name].shape or not torch.equal(value, state[name])
    }
    assert moved == {"fc.weight", "fc.bias"}
    alphas = [value for name, value in state.items() if name.endswith("alpha")]
    assert len(alphas) == 8
    assert all(value.abs().sum() > 0 for value in alphas), "attention starts as the identity, and has learnt"
    assert saved["saccade"]["statistics"][0] == pytest.approx([123.675, 116.28, 103.53])


def test_the_names_of_classes_are_text(capsys):
    print_evaluation(Evaluation(3, 0.5, 0.5, None, 0.1, [("[red]", 2, 0.5), ("[/x]", 1, None)]))
    printed = capsys.readouterr().out
    assert re.search(r"^\[red\] +2 +50.0 %$", printed, re.MULTILINE)
    assert re.search(r"^\[/x\] +1 *$", printed, re.MULTILINE)


def test_an_unknown_split_is_one_message(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["saccade", "evaluate", str(tmp_path / "x.ckpt"), "--split", "tset"])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    assert "`split` (='tset') must be one of 'train', 'val', 'test' (did you mean 'test'?)" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["saccade", "evaluate", str(tmp_path / "x.ckpt"), "--device", "cude"])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    assert "`device` (='cude') cannot be used here" in capsys.readouterr().err


def test_a_checkpoint_is_evaluated_as_text_and_as_json(tmp_path: Path, words: list[str], monkeypatch, capsys):
    printed, _ = run([*words, "--logger", "none"], monkeypatch, capsys)
    assert not list((tmp_path / "out").glob("events*"))
    checkpoint = str(tmp_path / "out/last.ckpt")
    again, _ = run(["evaluate", checkpoint], monkeypatch, capsys)
    assert again.strip() == printed.rpartition("\n\n")[0].strip()
    content = json.loads(run(["evaluate", checkpoint, "--split", "train", "--json"], monkeypatch, capsys)[0])
    assert content["images"] == 24
    assert [entry["class"] for entry in content["per_class"]] == ["green", "red"]
    assert sum(entry["images"] * entry["accuracy"] for entry in content["per_class"]) == pytest.approx(
        24 * content["top1"]
    )
    assert content["top5"] is None


def test_other_images_are_normalised_as_those_of_the_training(tmp_path: Path, words: list[str], monkeypatch, capsys):
    run(words, monkeypatch, capsys)
    moved = tmp_path / "moved"
    (tmp_path / "images").rename(moved)
    for file in (moved / "train").rglob("0.png"):
        file.unlink()  # other training images, whose statistics must not count
    checkpoint = str(tmp_path / "out/best.ckpt")
    content = json.loads(
        run(["evaluate", checkpoint, "--data", f"imagefolder:{moved}", "--json"], monkeypatch, capsys)[0]
    )
    (moved).rename(tmp_path / "images")
    same = json.loads(run(["evaluate", checkpoint, "--json"], monkeypatch, capsys)[0])
    assert content == same


def test_a_corrupt_image_is_named_and_skipped_if_asked(tmp_path: Path, words: list[str], monkeypatch, capsys, caplog):
    bad = tmp_path / "images/train/red/3.png"
    bad.write_bytes(b"no image")
    monkeypatch.setattr("sys.argv", ["saccade", *words])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    assert capsys.readouterr().err.startswith(f"saccade: {bad} cannot be read as an image")
    run([*words, "--skip-bad"], monkeypatch, capsys)
    assert f"1 of 40 images are left out, since they cannot be read: {bad}" in caplog.text


def test_recipes_are_listed(monkeypatch, capsys):
    out, _ = run(["train", "--list"], monkeypatch, capsys)
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == ["recipe", *list_recipes()]


def test_a_loss_that_is_no_number_is_a_failed_training_and_one_line(words: list[str], monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["saccade", *words, "--set", "optim.lr=1e30"])
    with pytest.raises(SystemExit, match=r"^1$"):
        main()
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.match(r"saccade: the (training loss|weights) .*became", error)


def test_a_run_that_is_interrupted_ends_with_130_and_says_what_to_do(tmp_path: Path, words: list[str]):
    command = [sys.executable, "-m", "saccade.cli", *words, "--set", "epochs=500"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert next(line for line in process.stderr if line.startswith("epoch 1/500"))
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 130
    assert rest.endswith(f"stopped; run the same command again to go on from {tmp_path / 'out/last.ckpt'}\n")
    process.stderr.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("attention={[]: 1}", "`attention`"),
        ("schedule.name=step", "schedule.name='step' and schedule.milestones, such as (0.5, 0.75), go together"),
    ],
)
def test_a_change_that_cannot_be_is_one_message(change: str, message: str, words: list[str], monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["saccade", *words, "--set", change])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    assert message in capsys.readouterr().err


def test_a_change_within_a_group_that_was_replaced_is_one_message(words: list[str], monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["saccade", *words, "--set", "optim=3", "--set", "optim.lr=1"])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    assert "there is no 'optim.lr'" in capsys.readouterr().err


def test_a_logger_that_is_not_installed_is_named(words: list[str], monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["saccade", *words, "--logger", "wandb"])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    assert "`logger` (='wandb') needs a package that is not installed" in capsys.readouterr().err
