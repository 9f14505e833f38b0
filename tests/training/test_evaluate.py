"""Scores, against loops over single images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from saccade.data import ImageData, Split, batches
from saccade.data.image_folder import load_image_folder
from saccade.errors import DataError
from saccade.training import evaluate
from saccade.training.evaluate import BATCH, calibration_error, count_right, logits
from training.runs import image_folder

CLASSES = 7


class Table(nn.Module):
    """Gives for the image with the number n the n-th row of a table."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, images: Tensor) -> Tensor:
        return self.rows[(images[:, 0, 0, 0] * 1e4).round().long()]


class Numbered(ImageData):
    """Images that are their number."""

    def normalise(self, images: Tensor) -> Tensor:
        return (images[:, :1].long() + 256 * images[:, 1:].long()) / 1e4


def numbered(count: int) -> Numbered:
    numbers = torch.arange(count)
    images = torch.stack([numbers % 256, numbers // 256], 1).to(torch.uint8)[:, :, None, None]
    labels = torch.randint(0, CLASSES - 1, (count,), generator=torch.Generator().manual_seed(1))
    split = Split(images, labels)
    return Numbered("numbers", [f"class {n}" for n in range(CLASSES)], split, split, split)


def table(count: int) -> Table:
    return Table(3 * torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(2)))


def test_every_score_is_that_of_a_loop() -> None:
    count = BATCH + 37
    data, model = numbered(count), table(count)
    scores = evaluate(model, data, "test")
    labels, rows = data.test.labels.tolist(), model.rows.detach().double()
    best = [sorted(range(CLASSES), key=lambda c: -row[c]) for row in rows.tolist()]
    assert scores.images == count
    assert scores.top1 == sum(b[0] == label for b, label in zip(best, labels, strict=True)) / count
    assert scores.top5 == sum(label in b[:5] for b, label in zip(best, labels, strict=True)) / count
    losses = [-row.log_softmax(0)[label].item() for row, label in zip(rows, labels, strict=True)]
    assert scores.loss == pytest.approx(sum(losses) / count)
    for number, (name, images, right) in enumerate(scores.per_class):
        mine = [b[0] == number for b, label in zip(best, labels, strict=True) if label == number]
        assert (name, images) == (f"class {number}", len(mine))
        assert right == (sum(mine) / len(mine) if mine else None)


def test_five_classes_have_no_top_five() -> None:
    split = Split(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2, 3]))
    data = ImageData("four", list("abcde"), split, split, split)
    assert evaluate(nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), data, "val").top5 is None


def test_the_calibration_error_is_that_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(3)
    probabilities = (3 * torch.randn(500, CLASSES, generator=generator)).double().softmax(1)
    labels = torch.randint(0, CLASSES, (500,), generator=generator)
    confidence, named = probabilities.max(1)
    expected = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [i for i in range(500) if low < confidence[i].item() <= high]
        if inside:
            right = sum(int(named[i] == labels[i]) for i in inside) / len(inside)
            expected += len(inside) / 500 * abs(right - sum(confidence[i].item() for i in inside) / len(inside))
    assert calibration_error(probabilities, labels) == pytest.approx(expected)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not() -> None:
    sure = torch.eye(CLASSES, dtype=torch.float64)
    assert calibration_error(sure, torch.arange(CLASSES)) == 0.0
    assert calibration_error(sure, (torch.arange(CLASSES) + 1) % CLASSES) == 1.0


@pytest.mark.parametrize("world", [2, 3, 8])
def test_processes_share_the_images_without_taking_one_twice(world: int) -> None:
    data, model = numbered(701), table(701)
    whole = count_right(*logits(model, data, "val"))
    shares = [count_right(*logits(model, data, "val", rank=rank, world=world)) for rank in range(world)]
    assert tuple(map(sum, zip(*shares, strict=True))) == whole
    assert max(images for _, images in shares) - min(images for _, images in shares) <= 1


def test_more_processes_than_images_count_nothing() -> None:
    assert count_right(*logits(table(3), numbered(3), "val", rank=4, world=5)) == (0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images", train=4, others=9)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 2))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [5, 256])
def test_images_in_files_score_as_those_in_memory(folder: Path, workers: int, batch_size: int) -> None:
    memory, files = (load_image_folder(folder, 12, in_memory=there) for there in (True, False))
    for world in (1, 2):
        options = {"batch_size": batch_size, "rank": world - 1, "world": world}
        expected, labels = logits(linear(), memory, "val", **options)
        given, named = logits(linear(), files, "val", workers=workers, **options)
        assert torch.equal(given, expected)
        assert torch.equal(named, labels)
    assert evaluate(linear(), files, "test", workers=workers) == evaluate(linear(), memory, "test")


def test_files_are_read_by_the_workers_and_tensors_are_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Loader(DataLoader):
        def __init__(self, *args: Any, **options: Any) -> None:
            asked.append(options["num_workers"])
            super().__init__(*args, **options)

    monkeypatch.setattr(batches, "DataLoader", Loader)
    for in_memory in (True, False):
        logits(linear(), load_image_folder(folder, 12, in_memory=in_memory), "val", workers=1)
    assert asked == [0, 1]


def test_batches_have_the_size_that_is_asked() -> None:
    sizes: list[int] = []
    model = table(20)
    model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    logits(model, numbered(20), "val", batch_size=8)
    assert sizes == [8, 8, 4]


def test_evaluation_draws_nothing(folder: Path) -> None:
    data, model = load_image_folder(folder, 12, in_memory=False), linear()
    state = torch.get_rng_state()
    logits(model, data, "val", workers=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_was_damaged_since_is_named(folder: Path, workers: int) -> None:
    data = load_image_folder(folder, 12, in_memory=False)
    bad = folder / "val/red/3.png"
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"^{bad} cannot be read as an image: "):
        logits(linear(), data, "val", workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_counted_and_the_others_scored(
    folder: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = logits(linear(), load_image_folder(folder, 12, in_memory=True), "val")
    data = load_image_folder(folder, 12, in_memory=False, skip_bad=True)
    for number in (0, 1, 8):  # a batch of two, and the last
        (folder / f"val/green/{number}.png").write_bytes(b"no image")
    model, sizes = linear(), []
    model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    given, labels = logits(model, data, "val", batch_size=2, workers=workers)
    assert 0 not in sizes
    assert torch.allclose(given, whole[[*range(2, 8), *range(9, 18)]])
    assert labels.tolist() == 6 * [0] + 9 * [1]
    assert "3 of 18 images of the val part are left out: they cannot be read" in caplog.text
    assert evaluate(linear(), data, "val").images == 15


def test_a_part_that_cannot_be_read_at_all_has_no_score(folder: Path) -> None:
    data = load_image_folder(folder, 12, in_memory=False, skip_bad=True)
    for file in (folder / "val").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 18 images of the val part can be read"):
        evaluate(linear(), data, "val")
