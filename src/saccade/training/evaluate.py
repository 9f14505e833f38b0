"""Evaluate a classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data import ImageData
from saccade.data.images import Split, SplitName

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
    right, images = count_right(model, data, split)
    return right / images


def count_right(
    model: nn.Module, data: ImageData, split: SplitName, *, rank: int = 0, world: int = 1
) -> tuple[int, int]:
    """How many images of a split the model names right, and of how many: of those that ``rank`` of ``world`` takes."""
    given, labels = logits(model, data, split, rank=rank, world=world)
    return int((given.argmax(1).cpu() == labels).sum()), len(labels)


def evaluate(model: nn.Module, data: ImageData, split: SplitName) -> Evaluation:
    """Loss, accuracy, calibration and a table of classes."""
    given, labels = logits(model, data, split)
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
    model: nn.Module, data: ImageData, split: SplitName, *, rank: int = 0, world: int = 1
) -> tuple[Tensor, Tensor]:
    """What the model gives for images of a split, (N, classes), and their labels.

    Of several processes, ``rank`` of ``world``, each takes every world-th image, so that none is taken twice.
    """
    images: Split = getattr(data, split)
    device = next(model.parameters()).device
    training = [module for module in model.modules() if module.training]
    given, labels = [torch.zeros(0, len(data.classes), device=device)], [images.labels[:0]]
    model.eval()
    try:
        with torch.inference_mode():
            for rows in torch.arange(len(images))[rank::world].split(BATCH):
                if len(rows):
                    batch, read = images.take(rows)
                    batch = data.normalise(batch).contiguous(memory_format=torch.channels_last)
                    given.append(model(batch.to(device)))
                    labels.append(images.labels[read])
    finally:
        for module in training:
            module.training = True
    return torch.cat(given), torch.cat(labels)
