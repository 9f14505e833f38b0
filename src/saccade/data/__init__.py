"""Data sets: where images come from, and how they become batches."""

from __future__ import annotations

from pathlib import Path

from saccade.data.augment import AugmentSettings as AugmentSettings
from saccade.data.batches import TrainBatches as TrainBatches
from saccade.data.images import ImageData as ImageData
from saccade.data.images import Split as Split
from saccade.data.images import check_classes as check_classes
from saccade.errors import UsageError


def load_data(
    name: str, image_size: int = 32, data_dir: Path | str | None = None, *, skip_bad: bool = False
) -> ImageData:
    """Load a data set by name: ``sample``, ``cifar10``, ``cifar100``, or ``imagefolder:PATH``.

    ``imagefolder:PATH,test=val`` is a folder whose ``val`` is the test too, as is usual with ImageNet.

    Args:
        name: the data set.
        image_size: the side to which the images of a folder are brought; the others stay as they are.
        data_dir: where CIFAR is, or is downloaded to; by default ``~/.cache/saccade``.
        skip_bad: leave out images of a folder that cannot be read, instead of an error.
    """
    kind, _, path = name.partition(":")
    if name == "sample":
        from saccade.data.sample import load_sample

        return load_sample()
    if name in ("cifar10", "cifar100"):
        from saccade.data.cifar import load_cifar

        return load_cifar(name, data_dir)
    if kind == "imagefolder" and path:
        from saccade.data.image_folder import VAL_IS_TEST, load_image_folder

        folder = path.removesuffix(VAL_IS_TEST)
        return load_image_folder(folder, image_size, skip_bad=skip_bad, val_is_test=folder != path)
    raise UsageError(f"`data` (={name!r}) must be sample, cifar10, cifar100 or imagefolder:PATH")
