"""Evaluate a classifier."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data import ImageData
from saccade.data.batches import plain_batches
from saccade.data.images import Split, SplitName
from saccade.errors import DataError

LOG = logging.getLogger("saccade")
BATCH = 256
BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """What a classifier does on the images of a split."""

    images: int
    loss: float
    top1: float
    top5: float | None
    """None with five classes and fewer."""
    calibration_error: float
    """Expected calibration error: the mean gap between confidence and accuracy over 15 bins of confidence."""
    per_class: list[tuple[str, int, float | None]]
    """Name, number of images, share of them that were named right."""


def predict(model: nn.Module, data: ImageData, split: SplitName) -> Tensor:
    """The class that the model gives to each image of a split, (N). The model's mode is left as it was."""
    return logits(model, data, split)[0].argmax(1)


def accuracy(model: nn.Module, data: ImageData, split: SplitName) -> float:
    """Share of the images of a split whose class the model names."""
    right, images = count_right(*logits(model, data, split))
    return right / images


def count_right(given: Tensor, labels: Tensor) -> tuple[int, int]:
    """How many images are named right by what a model gave for them, (N, classes), and of how many."""
    return int((given.argmax(1).cpu() == labels).sum()), len(labels)


def evaluate(
    model: nn.Module, data: ImageData, split: SplitName, *, batch_size: int = BATCH, workers: int = 0
) -> Evaluation:
    """Loss, accuracy, calibration and a table of classes. The arguments are those of :func:`logits`."""
    given, labels = logits(model, data, split, batch_size=batch_size, workers=workers)
    given = given.float().cpu()
    classes = len(data.classes)
    right = given.argmax(1) == labels
    support = torch.bincount(labels, minlength=classes)
    hits = torch.bincount(labels[right], minlength=classes)
    best = given.topk(min(5, classes), dim=1).indices
    return Evaluation(
        images=len(labels),
        loss=F.cross_entropy(given.double(), labels).item(),
        top1=right.sum().item() / len(labels),
        top5=(best == labels[:, None]).any(1).sum().item() / len(labels) if classes > 5 else None,
        calibration_error=calibration_error(given.double().softmax(1), labels),
        per_class=[
            (name, int(support[n]), int(hits[n]) / int(support[n]) if support[n] else None)
            for n, name in enumerate(data.classes)
        ],
    )


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Sum over bins of confidence of (share of the images in it) |accuracy - mean confidence| (Guo et al., 2017)."""
    confidence, named = probabilities.max(1)
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1
    zeros = torch.zeros(bins, dtype=confidence.dtype)
    gaps = zeros.index_add(0, number, (named == labels).to(confidence.dtype) - confidence)
    return gaps.abs().sum().item() / len(labels)


def logits(
    model: nn.Module,
    data: ImageData,
    split: SplitName,
    *,
    batch_size: int = BATCH,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> tuple[Tensor, Tensor]:
    """What the model gives for the images of a split that can be read, (N, classes), and their labels.

    Args:
        model: its mode is left as it was.
        data: the images.
        split: which of them.
        batch_size: images at a time.
        workers: processes that read files ahead. They change nothing but the speed.
        rank, world: of several processes, each takes every world-th image, so that none is taken twice.

    Raises:
        DataError: an image that cannot be read, unless such are to be skipped; or not one that can.
    """
    device = next(model.parameters()).device
    training = [module for module in model.modules() if module.training]
    part: Split = getattr(data, split)
    asked = len(range(rank, len(part), world))
    given = [torch.zeros(0, len(data.classes), device=device)]
    labels = [torch.zeros(0, dtype=torch.int64)]
    model.eval()
    try:
        for images, named in plain_batches(part, batch_size, workers=workers, rank=rank, world=world):
            if len(named):
                normalised = data.normalise(images.to(device)).contiguous(memory_format=torch.channels_last)
                with torch.inference_mode():
                    given.append(model(normalised))
                labels.append(named)
    finally:
        for module in training:
            module.training = True
    missing = asked - sum(map(len, labels))
    if missing and missing == asked:
        raise DataError(f"none of the {asked} images of the {split} part can be read")
    if missing:
        LOG.warning("%d of %d images of the %s part are left out: they cannot be read", missing, asked, split)
    return torch.cat(given), torch.cat(labels)
