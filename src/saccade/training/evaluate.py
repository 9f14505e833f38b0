"""Evaluate a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.data import ImageData
from saccade.data.images import Split, SplitName

BATCH = 256


def predict(model: nn.Module, data: ImageData, split: SplitName) -> Tensor:
    """The class that the model gives to each image of a split, (N). The model's mode is left as it was."""
    images: Split = getattr(data, split)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return torch.cat(
                [
                    model(data.normalise(batch).contiguous(memory_format=torch.channels_last)).argmax(1)
                    for batch in images.images.split(BATCH)
                ]
            )
    finally:
        model.train(training)


def accuracy(model: nn.Module, data: ImageData, split: SplitName) -> float:
    """Share of the images of a split whose class the model names."""
    images: Split = getattr(data, split)
    return (predict(model, data, split) == images.labels).sum().item() / len(images)
