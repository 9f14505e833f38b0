"""The embedded sample: 9,000 real images of Fashion-MNIST, balanced over its ten classes.

``sample/train.png``, ``val.png`` and ``test.png`` hold the images side by side, 100 in a row, class after class: 550,
50 and 300 of each. The training and validation images are from the set's training part, the test images from its test
part. See ``sample/NOTICE`` for the source and its licence.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
from PIL import Image

from saccade.data.images import SPLITS, ImageData, Split

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
SIDE = 28


def load_sample() -> ImageData:
    """The embedded sample, (1, 28, 28): 5,500 training, 500 validation and 3,000 test images."""
    train, val, test = (_read_mosaic(f"{name}.png") for name in SPLITS)
    return ImageData("sample", list(CLASSES), train, val, test)


def _read_mosaic(name: str) -> Split:
    with (files("saccade.data") / "sample" / name).open("rb") as file, Image.open(file) as picture:
        pixels = torch.from_numpy(np.array(picture))
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    images = pixels.view(rows, SIDE, columns, SIDE).transpose(1, 2).reshape(-1, 1, SIDE, SIDE)
    labels = torch.arange(len(CLASSES)).repeat_interleave(len(images) // len(CLASSES))
    return Split(images, labels)
