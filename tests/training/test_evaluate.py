"""Scores, against loops over single images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from saccade.data import ImageData, Split
from saccade.training import evaluate
from saccade.training.evaluate import BATCH, calibration_error, count_right

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
    whole = count_right(model, data, "val")
    shares = [count_right(model, data, "val", rank=rank, world=world) for rank in range(world)]
    assert tuple(map(sum, zip(*shares, strict=True))) == whole
    assert max(images for _, images in shares) - min(images for _, images in shares) <= 1


def test_more_processes_than_images_count_nothing() -> None:
    assert count_right(table(3), numbered(3), "val", rank=4, world=5) == (0, 0)
