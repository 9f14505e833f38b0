"""Labelled images in memory, as bytes: small sets are trained on faster from tensors than from files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W) and their classes int64 (N)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


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
        """Mean and standard deviation of each channel of the training images, in units of 0..255."""
        flat = self.train.images.transpose(0, 1).flatten(1)
        # In integers, exactly: a float sum over a whole data set would lose digits.
        total, count = flat.sum(1, dtype=torch.int64).double(), flat.shape[1]
        squares = torch.stack([_sum_of_squares(channel) for channel in flat]).double()
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=1.0).sqrt()
        return mean.float(), deviation.float()

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images -> float32 with zero mean and unit deviation per channel of the training images."""
        mean, deviation = self.statistics
        return (images.float() - mean[:, None, None]) / deviation[:, None, None]

    @cached_property
    def digest(self) -> str:
        """A fingerprint of every image, label and class, by which a changed data set is noticed."""
        sha = hashlib.sha256(repr(self.classes).encode())
        for name in SPLITS:
            split: Split = getattr(self, name)
            sha.update(repr(tuple(split.images.shape)).encode())
            sha.update(split.images.contiguous().numpy().data)
            sha.update(split.labels.contiguous().numpy().data)
        return sha.hexdigest()

    def save(self, path: Path) -> None:
        """Write the tensors to a file that other processes map into memory."""
        tensors = {
            f"{name}.{part}": getattr(getattr(self, name), part).contiguous()
            for name in SPLITS
            for part in ("images", "labels")
        }
        metadata = {"name": self.name} | {f"class {number}": name for number, name in enumerate(self.classes)}
        save_file(tensors, path, metadata)

    @classmethod
    def load(cls, path: Path) -> ImageData:
        """Read what :meth:`save` wrote."""
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            classes = [metadata[f"class {number}"] for number in range(len(metadata) - 1)]
            train, val, test = (
                Split(file.get_tensor(f"{name}.images"), file.get_tensor(f"{name}.labels")) for name in SPLITS
            )
        return cls(metadata["name"], classes, train, val, test)


def _sum_of_squares(channel: Tensor) -> Tensor:
    counts = torch.bincount(channel, minlength=256)
    return (counts * torch.arange(256).square()).sum()
