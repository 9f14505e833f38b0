"""Batches for training: any of them can be made alone, so that a killed run goes on in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from saccade.data.augment import Augment, AugmentSettings
from saccade.data.files import ImageFiles
from saccade.data.images import ImageData, Split
from saccade.errors import DataError

Request = tuple[int, Tensor]  # the epoch, and the samples of a batch
Batch = tuple[Tensor, Tensor]  # images and labels


class BatchOrder(Sampler[Request]):
    """The batches of an epoch, as samples: f(seed, epoch). Begins at the batch ``start``, once.

    Of several processes, ``rank`` of ``world``, each takes its share of every batch, so that together they take the
    batches that a single process of ``world`` times the size would.
    """

    def __init__(self, augment: Augment, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.augment = augment
        self.batch_size = batch_size
        self.rank, self.world = rank, world
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.augment.count // (self.batch_size * self.world)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Request]:
        epoch, start, self.start = self.epoch, self.start, 0
        whole = self.batch_size * self.world
        for rows in self.augment.order(epoch)[: len(self) * whole].split(whole)[start:]:
            yield epoch, rows[self.rank * self.batch_size :][: self.batch_size]


class _Made(Dataset[Batch | DataError]):
    """Batches for training on request: augmented, normalised, channels last.

    An image that cannot be read is handed over as the error: raised in a worker, it would come wrapped in a traceback.
    """

    def __init__(self, data: ImageData, augment: Augment) -> None:
        self.data = data
        self.augment = augment

    def __getitem__(self, request: Request) -> Batch | DataError:
        epoch, rows = request
        train, least = self.data.train, self.augment.settings.resized_crop or 1.0
        try:
            images, rows = train.take(rows, self.augment.crops(epoch, rows), least)
        except DataError as error:
            return error
        images = self.data.normalise(self.augment(images, epoch, rows))
        return images.contiguous(memory_format=torch.channels_last), train.labels[rows]


class _Plain(Dataset[Batch | DataError]):
    """Images as they are, on request; errors are handed over likewise."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, rows: Tensor) -> Batch | DataError:
        try:
            images, rows = self.split.take(rows)
        except DataError as error:
            return error
        return images, self.split.labels[rows]


def plain_batches(split: Split, batch_size: int, *, workers: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """The images of a split in their order, as bytes, and their labels; a batch is empty where none can be read.

    Bytes, a quarter of what floats would take from process to process and to a device.

    Args:
        split: the images.
        batch_size: of one process.
        workers: processes that read files ahead. Images in memory need none.
        rank, world: of several processes, each takes every world-th image, so that none is taken twice.
    """
    rows = torch.arange(len(split))[rank::world]
    loader = DataLoader(
        _Plain(split),
        sampler=[part for part in rows.split(batch_size) if len(part)],
        batch_size=None,
        num_workers=workers if isinstance(split.images, ImageFiles) else 0,
        generator=torch.Generator(),
    )
    return _without_errors(loader)


def _without_errors(batches: Iterable[Batch | DataError]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        yield batch


class TrainBatches(DataLoader[Batch | DataError]):
    """Shuffled, augmented and normalised batches of the training images; one pass is one epoch.

    ``skipped`` counts the images that could not be read and are missing in the batches that were given.

    Whole batches only, so that BatchNorm never sees a handful of images, unless there are fewer images than one batch.

    Args:
        data: the images.
        batch_size: of one process.
        seed: of order and augmentation.
        augment: what is done to images; by default every other one is mirrored.
        workers: processes that make batches ahead. They change nothing but the speed.
        rank, world: which of how many training processes this is.
    """

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        seed: int,
        augment: AugmentSettings | None = None,
        *,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        count = len(data.train)
        drawn = Augment(augment or AugmentSettings(), seed, count)
        order = BatchOrder(drawn, min(batch_size, max(1, count // world)), rank, world)
        self.data = data
        self.order = order
        self.given = 0
        self.skipped = 0
        # Its own generator: a loader draws a seed for its workers, by default from the one that dropout draws from.
        super().__init__(
            _Made(data, drawn),
            sampler=order,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator(),
        )

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.given = self.order.start
        _ = self.data.statistics  # here once, not in every worker
        for images, labels in _without_errors(super().__iter__()):
            if not len(labels):
                raise DataError(
                    f"none of the {self.order.batch_size} images of a batch can be read; the log names them"
                )
            self.given += 1
            self.skipped += self.order.batch_size - len(labels)
            yield images, labels

    def state_dict(self) -> dict[str, Any]:
        """Where the run is: the epoch, how many of its batches were given, and what is missing in these."""
        return {"epoch": self.order.epoch, "given": self.given, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.order.epoch, self.order.start = state["epoch"], state["given"] % len(self.order)
        self.skipped = state["skipped"]
