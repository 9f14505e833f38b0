"""Augmentation on tensors, drawn by counter: what happens to an image is f(seed, epoch, sample)."""

# B batch, C channels, H W the image

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from saccade._seeds import derive_seed

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AugmentSettings(BaseModel):
    """What is done to training images. All zero or false: nothing, as ``--augment none``."""

    model_config = STRICT

    flip: bool = True
    """Every other image mirrored."""
    crop: Annotated[int, Field(ge=0)] = 0
    """Zeros added on every side before a crop of the image's own size, as for CIFAR (4)."""
    resized_crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Least share of an image that a random part of it has, which is resized to the whole (ImageNet: 0.08)."""
    policy: Literal["none", "trivial", "rand"] = "none"
    """torchvision's TrivialAugmentWide or RandAugment, on each image."""
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of images with a rectangle erased (torchvision's RandomErasing)."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """alpha of mixup; with cutmix too, one of the two is drawn for each batch."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing."""


class Augment:
    """Augments batches of uint8 images (B, C, H, W) of a set of ``count``."""

    def __init__(self, settings: AugmentSettings, seed: int, count: int) -> None:
        self.settings = settings
        self.seed = seed
        self.count = count
        self._drawn = lru_cache(maxsize=2)(self._draw)

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "seed": self.seed, "count": self.count}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __call__(self, images: Tensor, epoch: int, rows: Tensor) -> Tensor:
        """Images of the samples ``rows``, each as in that epoch."""
        settings = self.settings
        drawn = self._drawn(epoch)
        if settings.crop:
            images = shifted(images, drawn.shifts[rows], settings.crop)
        if settings.flip:
            images = torch.where(drawn.flipped[rows, None, None, None], images.flip(3), images)
        if settings.policy != "none" or settings.erase:
            images = self._one_by_one(images, epoch, rows)
        return images

    def order(self, epoch: int) -> Tensor:
        """The order of the samples in an epoch."""
        return self._drawn(epoch).order

    def crops(self, epoch: int, rows: Tensor) -> Tensor | None:
        """What :func:`saccade.data.files.crop_box` draws from, for each of ``rows``."""
        crops = self._drawn(epoch).crops
        return None if crops is None else crops[rows]

    def _draw(self, epoch: int) -> _Drawn:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "batches", epoch))
        return _Drawn(
            order=torch.randperm(self.count, generator=generator),
            flipped=torch.rand(self.count, generator=generator) < 0.5,
            shifts=torch.randint(0, 2 * self.settings.crop + 1, (self.count, 2), generator=generator),
            crops=torch.rand(self.count, 4, generator=generator) if self.settings.resized_crop else None,
            erased=torch.rand(self.count, generator=generator) < self.settings.erase,
        )

    def _one_by_one(self, images: Tensor, epoch: int, rows: Tensor) -> Tensor:
        """torchvision's transforms, which draw from PyTorch's own generator: it is seeded anew for every image."""
        policy, erasing = _policy(self.settings.policy), _erasing()
        erased = self._drawn(epoch).erased[rows].tolist()
        images = images.clone()
        with torch.random.fork_rng(devices=[]):
            for number, row in enumerate(rows.tolist()):
                transforms = [*policy, erasing] if erased[number] else policy
                if transforms:  # an image that is not erased costs nothing
                    torch.default_generator.manual_seed(derive_seed(self.seed, "augment", epoch, row))
                for transform in transforms:
                    images[number] = transform(images[number])
        return images


class _Drawn(NamedTuple):
    """What an epoch draws at once, a row for each sample."""

    order: Tensor
    flipped: Tensor
    shifts: Tensor
    crops: Tensor | None
    erased: Tensor


@lru_cache
def _policy(name: str) -> list[Any]:
    from torchvision.transforms import v2

    policies = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}
    return [policies[name]()] if name in policies else []


@lru_cache
def _erasing() -> Any:
    from torchvision.transforms import v2

    return v2.RandomErasing(p=1)


def mix_of(settings: AugmentSettings, classes: int) -> Any:
    """torchvision's mixup or cutmix of a batch and its labels, or None."""
    from torchvision.transforms import v2

    mixes = [v2.MixUp(alpha=settings.mixup, num_classes=classes)] if settings.mixup else []
    mixes += [v2.CutMix(alpha=settings.cutmix, num_classes=classes)] if settings.cutmix else []
    return v2.RandomChoice(mixes) if mixes else None


def shifted(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Each image within ``padding`` zeros on every side, cropped to its size from row and column ``shifts`` (B, 2)."""
    _, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = shifts[:, 0, None] + torch.arange(height)
    columns = shifts[:, 1, None] + torch.arange(width)
    each = torch.arange(len(images))
    return padded.permute(0, 2, 3, 1)[each[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
