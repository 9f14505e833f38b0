"""CIFAR-10 and CIFAR-100, by torchvision's downloader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from saccade._seeds import derive_seed
from saccade.data.images import ImageData, Split
from saccade.errors import DataError

CACHE = "~/.cache/saccade"
VAL_PER_CLASS = {"cifar10": 500, "cifar100": 50}


def load_cifar(name: str, data_dir: Path | str | None = None) -> ImageData:
    """The images in memory; 5,000 of the 50,000 training images, the same of every class, are the validation part.

    Raises:
        DataError: no local copy, and none could be downloaded.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    root = Path(data_dir or CACHE).expanduser()
    train, test = (_part(kind, root, train=train) for train in (True, False))
    generator = torch.Generator().manual_seed(derive_seed("validation split", name))
    labels = torch.tensor(train.targets)
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.cat([order[labels[order] == c][: VAL_PER_CLASS[name]] for c in range(len(train.classes))])
    is_val = torch.zeros(len(labels), dtype=torch.bool).index_fill(0, chosen, value=True)
    images = torch.from_numpy(train.data).permute(0, 3, 1, 2)
    return ImageData(
        name,
        list(train.classes),
        Split(images[~is_val].contiguous(), labels[~is_val]),
        Split(images[is_val].contiguous(), labels[is_val]),
        Split(torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(test.targets)),
    )


def _part(kind: Any, root: Path, *, train: bool) -> Any:
    try:
        return kind(str(root), train=train, download=True)  # of what is not there, or not whole
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{root} has no whole {kind.__name__}, and none can be downloaded: {error}; give a folder that has "
            f"{kind.base_folder}/ by --data-dir"
        ) from error
