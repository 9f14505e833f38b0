"""Images in folders: PATH/train/CLASS/*, PATH/val/CLASS/*, and where there is one PATH/test/CLASS/*."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from saccade._checks import check_int
from saccade._seeds import derive_seed
from saccade.data.images import ImageData, Split
from saccade.errors import DataError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
TEST_SHARE = 0.2


def load_image_folder(path: Path | str, image_size: int) -> ImageData:
    """Read a folder of images into memory, as RGB of ``image_size`` x ``image_size``.

    The shorter side is resized to ``image_size`` and the middle square is kept. Where there is no ``test`` folder, a
    fixed fifth of every class of ``train``, one image at least, is taken for it, and a note says so.

    Raises:
        DataError: a folder or class that is missing or empty, a single class, an image that cannot be read. The message
            names the folder or file.
    """
    check_int("image_size", image_size, at_least=8)
    root = Path(path).expanduser()  # no shell does it behind imagefolder:
    classes = _classes(root / "train")
    found = {name: _list_images(root / name, classes) for name in ("train", "val")}
    notes = []
    if (root / "test").is_dir():
        found["test"] = _list_images(root / "test", classes)
    else:
        found["train"], found["test"] = _take_test(found["train"], root / "train")
        notes.append(
            f"{root} has no test folder: {len(found['test'])} of its training images, a fixed fifth of every class "
            "(one at least), are kept for the test and not trained on"
        )
    images = _read_all((file for files in found.values() for file, _ in files), image_size)
    splits = {
        name: Split(torch.stack([images[file] for file, _ in files]), torch.tensor([label for _, label in files]))
        for name, files in found.items()
    }
    return ImageData(f"imagefolder:{path}", classes, notes=notes, **splits)


def _classes(train: Path) -> list[str]:
    if not train.parent.is_dir():
        raise DataError(f"there is no folder {train.parent}; imagefolder:PATH takes a folder with train/ and val/")
    if not train.is_dir():
        raise DataError(f"{train.parent} has no folder train; put images at {train / 'CLASS' / 'name.jpg'}")
    classes = sorted(entry.name for entry in train.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        have = f"only the class {classes[0]!r}" if classes else "no class folder"
        raise DataError(f"{train} holds {have}; a comparison needs two classes at least, one folder each")
    return classes


def _list_images(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Every image of a split with its class, in the order of names."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; it must hold one folder for every class of train")
    unknown = {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")} - {
        *classes
    }
    if unknown:
        raise DataError(f"{folder} has a class that train has not: {', '.join(map(repr, sorted(unknown)))}")
    images: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        files = sorted(file for file in (folder / name).rglob("*") if _is_image(file, folder))
        if not files:
            raise DataError(f"class {name!r} is empty: there is no image in {folder / name}")
        images += [(file, label) for file in files]
    return images


def _is_image(file: Path, folder: Path) -> bool:
    """By its name. What is hidden are copies that systems and tools leave (``._1.jpg``, ``.ipynb_checkpoints``)."""
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.suffix.lower() in SUFFIXES and not hidden and file.is_file()


def _take_test(images: list[tuple[Path, int]], folder: Path) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Split a fixed share of every class off: the same files on every machine and for every seed."""
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, group in groupby(images, key=itemgetter(1)):
        members = list(group)
        if len(members) < 2:
            raise DataError(f"{members[0][0].parent} has a single image; a test part cannot be split from {folder}")
        generator = torch.Generator().manual_seed(derive_seed("test split", label))
        order = torch.randperm(len(members), generator=generator).tolist()
        taken = max(1, round(TEST_SHARE * len(members)))
        test += [members[i] for i in sorted(order[:taken])]
        train += [members[i] for i in sorted(order[taken:])]
    return train, test


def _read_all(files: Iterable[Path], image_size: int) -> dict[Path, Tensor]:
    """Every image as uint8 (3, S, S). Those that cannot be read are told together."""
    order = sorted(files)
    with ThreadPoolExecutor() as threads:
        images = list(threads.map(lambda file: _read_image(file, image_size), order))
    broken = [(file, image) for file, image in zip(order, images, strict=True) if isinstance(image, str)]
    if broken:
        file, reason = broken[0]
        others = f"; {len(broken) - 1} more cannot be read" if len(broken) > 1 else ""
        raise DataError(f"{file} cannot be read as an image: {reason}{others}")
    return {file: image for file, image in zip(order, images, strict=True) if isinstance(image, Tensor)}


def _read_image(file: Path, image_size: int) -> Tensor | str:
    """The image as uint8 (3, S, S), or why it cannot be read."""
    try:
        with Image.open(file) as picture:
            square = ImageOps.fit(_as_rgb(picture), (image_size, image_size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


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
