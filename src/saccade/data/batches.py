"""Batches for training, drawn by counter: the order is f(seed, epoch), the augmentation f(seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from saccade._seeds import derive_seed
from saccade.data.images import ImageData


class TrainBatches:
    """Shuffled, flipped and normalised batches of the training images; one pass is one epoch.

    Whole batches only, so that BatchNorm never sees a handful of images, unless there are fewer images than one batch.
    """

    def __init__(self, data: ImageData, batch_size: int, seed: int) -> None:
        self.data = data
        self.batch_size = min(batch_size, len(data.train))
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.data.train) // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def sampler(self) -> TrainBatches:
        """Lightning tells the epoch to a loader's sampler, and here that is the loader."""
        return self

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.data.train.images, self.data.train.labels
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "batches", self.epoch))
        order = torch.randperm(len(labels), generator=generator)
        flipped = torch.rand(len(labels), generator=generator) < 0.5
        for rows in order[: len(self) * self.batch_size].split(self.batch_size):
            batch = self.data.normalise(images[rows])
            batch = torch.where(flipped[rows, None, None, None], batch.flip(3), batch)
            yield batch.contiguous(memory_format=torch.channels_last), labels[rows]
