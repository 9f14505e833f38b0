"""Data sets: where images come from, and how they become batches."""

from __future__ import annotations

from saccade.data.batches import TrainBatches as TrainBatches
from saccade.data.images import ImageData as ImageData
from saccade.data.images import Split as Split
from saccade.errors import UsageError


def load_data(name: str, image_size: int = 32) -> ImageData:
    """Load a data set by name: ``sample``, or ``imagefolder:PATH``.

    Args:
        name: the data set.
        image_size: the side to which the images of a folder are brought; the sample stays as it is.
    """
    kind, _, path = name.partition(":")
    if name == "sample":
        from saccade.data.sample import load_sample

        return load_sample()
    if kind == "imagefolder" and path:
        from saccade.data.image_folder import load_image_folder

        return load_image_folder(path, image_size)
    raise UsageError(f"`data` (={name!r}) must be sample or imagefolder:PATH")
