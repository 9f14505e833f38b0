"""Images in files: decoded to squares, at once or, where a set does not fit into memory, when they are asked for."""

# S side of the square, U what draws a crop

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from saccade.errors import DataError

LOG = logging.getLogger("saccade")
RATIO = math.log(4 / 3)  # of a crop's sides, either way


class ImageFiles:
    """Stands for the uint8 tensor (N, 3, S, S) of images on disk."""

    def __init__(self, files: list[Path], side: int, *, skip_bad: bool = False) -> None:
        self.files = files
        self.side = side
        self.skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.files), 3, self.side, self.side

    def take(self, rows: Tensor, crops: Tensor | None = None, least: float = 1.0) -> tuple[Tensor, Tensor]:
        """The images of ``rows`` that can be read, and which rows those are.

        Args:
            rows: numbers of images.
            crops: for every row what :func:`crop_box` draws from; None is the middle square.
            least: of :func:`crop_box`.

        Raises:
            DataError: an image that cannot be read, unless such are to be skipped.
        """
        taken = torch.empty(len(rows), 3, self.side, self.side, dtype=torch.uint8)
        kept: list[int] = []
        for number, row in enumerate(rows.tolist()):
            try:
                crop = None if crops is None else crops[number]
                taken[len(kept)] = read_image(self.files[row], self.side, crop, least)
                kept.append(row)
            except DataError as error:
                if not self.skip_bad:
                    raise
                LOG.warning("%s; it is left out", error)
        return taken[: len(kept)], torch.tensor(kept, dtype=torch.int64)

    def paths(self) -> Tensor:
        """Where the files are, as bytes (uint8) for a tensor's file."""
        text = "\0".join(str(file.absolute()) for file in self.files)
        return torch.frombuffer(bytearray(os.fsencode(text)), dtype=torch.uint8)

    @classmethod
    def of_paths(cls, paths: Tensor, side: int) -> ImageFiles:
        """What :meth:`paths` wrote."""
        return cls([Path(text) for text in os.fsdecode(paths.numpy().tobytes()).split("\0")], side)

    def fingerprint(self) -> bytes:
        """Of names and sizes: reading everything would take as long as an epoch."""
        sha = hashlib.sha256()
        for file in self.files:
            sha.update(repr((file.parent.name, file.name, file.stat().st_size)).encode())
        return sha.digest()


def read_image(file: Path, side: int, crop: Tensor | None = None, least: float = 1.0) -> Tensor:
    """An image as uint8 (3, S, S): the middle square, or a random part, resized.

    Raises:
        DataError: it cannot be read, with its name.
    """
    with _opened(file) as picture:
        if crop is None:
            square = ImageOps.fit(_as_rgb(picture), (side, side), Image.Resampling.BILINEAR)
        else:
            top, left, height, width = crop_box(crop, picture.height, picture.width, least)
            box = (left, top, left + width, top + height)
            square = _as_rgb(picture).resize((side, side), Image.Resampling.BILINEAR, box)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def check_image(file: Path) -> None:
    """That an image can be read, to its end: a header tells nothing of a file that is cut off.

    A JPEG is decoded to an eighth of its size, in a third of the time that :func:`read_image` takes.

    Raises:
        DataError: it cannot be read, with its name.
    """
    with _opened(file) as picture:
        picture.draft("RGB", (1, 1))
        _as_rgb(picture)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as picture:
            yield picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image: {error or type(error).__name__}") from error


def crop_box(draws: Tensor, height: int, width: int, least: float) -> tuple[int, int, int, int]:
    """Top, left, height, width of a part of an image, from four numbers of [0, 1) (U): area, ratio, position.

    The area is a share of ``least`` to 1 of the image's, the ratio of the sides 3:4 to 4:3, uniform in its logarithm
    (Szegedy et al., arXiv 1409.4842, section 6). A side that is longer than the image's becomes the image's, where
    torchvision draws again.
    """
    area, ratio, down, across = draws.tolist()
    pixels = height * width * (least + (1 - least) * area)
    ratio = math.exp(RATIO * (2 * ratio - 1))
    tall = min(height, max(1, round(math.sqrt(pixels / ratio))))
    wide = min(width, max(1, round(math.sqrt(pixels * ratio))))
    return int(down * (height - tall + 1)), int(across * (width - wide + 1)), tall, wide


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # Pillow would clip 16 bits to 8; the upper 8 are the picture.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError(f"its pixels are of mode {picture.mode!r}, whose range is unknown; save it with 8 or 16 bits")
    elif picture.mode in ("P", "LA", "PA", "RGBA"):
        # What is transparent becomes white rather than whatever colour lies beneath it.
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
