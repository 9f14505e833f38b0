"""Labelled images, in memory or in files, as bytes: small sets are trained on faster from tensors than from files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from saccade._seeds import derive_seed
from saccade.data.files import ImageFiles, crop_box
from saccade.errors import UsageError

SplitName = Literal["train", "val", "test"]
SAMPLED = 2048
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), in memory or in files, and their classes int64 (N)."""

    images: Tensor | ImageFiles
    labels: Tensor
    originals: ImageFiles | None = None
    """The files of images in memory that are larger there: random parts are cut from these."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor, crops: Tensor | None = None, least: float = 1.0) -> tuple[Tensor, Tensor]:
        """The images of ``rows``, and the rows again: without those whose files cannot be read and are to be skipped.

        Args:
            rows: numbers of images.
            crops: for every row what :func:`saccade.data.files.crop_box` draws a part from, with ``least``.
        """
        source = self.images if crops is None or self.originals is None else self.originals
        if isinstance(source, ImageFiles):
            return source.take(rows, crops, least)
        images = source[rows]
        return (images if crops is None else cropped(images, crops, least)), rows


@dataclass(frozen=True)
class ImageData:
    """A data set in its three parts. ``val`` may be looked at while training; ``test`` decides and chooses nothing."""

    name: str
    classes: list[str]
    train: Split
    val: Split
    test: Split
    notes: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the training images, in units of 0..255.

        Of images in files, those of 2,048 of them, the same every time.
        """
        if isinstance(self.train.images, Tensor):
            images = self.train.images
        else:
            generator = torch.Generator().manual_seed(derive_seed("statistics"))
            images, _ = self.train.take(torch.randperm(len(self.train), generator=generator)[:SAMPLED])
        flat = images.transpose(0, 1).flatten(1)
        # In integers, exactly: a float sum over a whole data set would lose digits.
        total, count = flat.sum(1, dtype=torch.int64).double(), flat.shape[1]
        squares = torch.stack([_sum_of_squares(channel) for channel in flat]).double()
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=1.0).sqrt()
        return mean.float(), deviation.float()

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images -> float32 with zero mean and unit deviation per channel of the training images."""
        mean, deviation = (part.to(images.device) for part in self.statistics)
        return (images.float() - mean[:, None, None]) / deviation[:, None, None]

    def normalised_by(self, mean: list[float], deviation: list[float]) -> ImageData:
        """The same images with another set's statistics: those that a network was trained with."""
        other = replace(self)
        vars(other)["statistics"] = torch.tensor(mean), torch.tensor(deviation)
        return other

    @cached_property
    def digest(self) -> str:
        """A fingerprint of every image, label and class, by which a changed data set is noticed."""
        sha = hashlib.sha256(repr(self.classes).encode())
        for name in SPLITS:
            split: Split = getattr(self, name)
            sha.update(repr(tuple(split.images.shape)).encode())
            if isinstance(split.images, Tensor):
                sha.update(split.images.contiguous().numpy().data)
            else:
                sha.update(split.images.fingerprint())
            sha.update(split.labels.contiguous().numpy().data)
        return sha.hexdigest()

    def save(self, path: Path) -> None:
        """Write the set to a file that other processes map into memory: tensors; of images in files their paths. The
        files of the originals are left out."""
        about = {"name": self.name, "classes": self.classes, "side": self.shape[1]}
        tensors: dict[str, Tensor] = {}
        for name in SPLITS:
            split: Split = getattr(self, name)
            labels = split.labels.contiguous()
            if isinstance(split.images, Tensor):
                kind, images = "images", split.images.contiguous()
            else:
                kind, images = "files", split.images.paths()
            if name == "test" and self.test is self.val:  # no tensor can be in the file twice
                images, labels = images.clone(), labels.clone()
            tensors |= {f"{name}.{kind}": images, f"{name}.labels": labels}
        save_file(tensors, path, {"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> ImageData:
        """Read what :meth:`save` wrote."""
        with safe_open(path, framework="pt") as file:
            about, kept = json.loads(file.metadata()["about"]), set(file.keys())
            splits: dict[str, Split] = {}
            for name in SPLITS:
                if f"{name}.images" in kept:
                    images = file.get_tensor(f"{name}.images")
                else:
                    images = ImageFiles.of_paths(file.get_tensor(f"{name}.files"), about["side"])
                splits[name] = Split(images, file.get_tensor(f"{name}.labels"))
        return cls(about["name"], about["classes"], splits["train"], splits["val"], splits["test"])


def check_classes(data: ImageData, classes: Sequence[str]) -> None:
    """That a data set has the classes of a checkpoint in their order: a label is a class's place.

    Raises:
        UsageError: other classes, with the first that differs.
    """
    for number, (here, there) in enumerate(zip_longest(data.classes, classes), 1):
        if here != there:
            raise UsageError(
                f"`data` (={data.name!r}) has {len(data.classes)} classes, the checkpoint {len(classes)}, and they "
                f"differ: class {number} is {_name_of(here)} in the data and {_name_of(there)} in the checkpoint; "
                "evaluate it on data with the classes that it was trained on, of the same names"
            )


def _name_of(name: str | None) -> str:
    return "missing" if name is None else repr(name)


def cropped(images: Tensor, crops: Tensor, least: float) -> Tensor:
    """A random part of each image, (B, C, H, W), resized to the whole."""
    from torchvision.transforms.v2 import functional as transforms

    height, width = images.shape[2:]
    boxes = [crop_box(draws, height, width, least) for draws in crops]
    size = [height, width]
    return torch.stack(
        [transforms.resized_crop(image, *box, size, antialias=True) for image, box in zip(images, boxes, strict=True)]
    )


def _sum_of_squares(channel: Tensor) -> Tensor:
    counts = torch.bincount(channel, minlength=256)
    return (counts * torch.arange(256).square()).sum()
