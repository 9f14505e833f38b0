"""Images in folders: PATH/train/CLASS/*, PATH/val/CLASS/*, and where there is one PATH/test/CLASS/*."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor

from saccade._checks import check_int
from saccade._seeds import derive_seed
from saccade.data.files import ImageFiles, check_image, read_image
from saccade.data.images import ImageData, Split
from saccade.errors import DataError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
TEST_SHARE = 0.2
IN_MEMORY = 2 << 30  # bytes
VAL_IS_TEST = ",test=val"  # after the path, in the name of a data set
NAMED = 5  # of the images that cannot be read

Part = list[tuple[Path, int]]  # files with their classes


def load_image_folder(
    path: Path | str,
    image_size: int,
    *,
    skip_bad: bool = False,
    in_memory: bool | None = None,
    val_is_test: bool = False,
) -> ImageData:
    """A folder of images, as RGB of ``image_size`` x ``image_size``.

    The shorter side is resized to ``image_size`` and the middle square is kept. Where there is no ``test`` folder, a
    fixed fifth of every class of ``train``, one image at least, is taken for it, and a note says so.

    Args:
        path: of the folder.
        image_size: the side of the squares.
        skip_bad: leave out images that cannot be read; a note counts and names them.
        in_memory: read all now, or each when it is asked for; by default now, if they take at most 2 GiB.
        val_is_test: ``val`` is the test too, as is usual with ImageNet; nothing is taken from ``train``.

    Raises:
        DataError: a folder or class that is missing or empty, a single class, an image that cannot be read. The message
            names the folder or file.
    """
    check_int("image_size", image_size, at_least=8)
    root = Path(path).expanduser()  # no shell does it behind imagefolder:
    classes = _classes(root / "train")
    found = {name: _list_images(root / name, classes) for name in ("train", "val")}
    notes = []
    if val_is_test:
        notes.append(
            f"{root / 'val'} is the test too: what is chosen by it, as best.ckpt is, scores a little too well on it"
        )
    elif (root / "test").is_dir():
        found["test"] = _list_images(root / "test", classes)
    else:
        found["train"], found["test"] = _take_test(found["train"], root / "train")
        notes.append(
            f"{root} has no test folder: {len(found['test'])} of its training images, a fixed fifth of every class "
            f"(one at least), are kept for the test and not trained on; imagefolder:{path}{VAL_IS_TEST} trains on all "
            "and takes val for the test, as is usual with ImageNet"
        )
    count = sum(len(part) for part in found.values())
    if in_memory is None:
        in_memory = 3 * image_size**2 * count <= IN_MEMORY
    bad: dict[Path, DataError] = {}
    splits: dict[str, Split] = {}
    for name, part in found.items():
        images, kept = _read(part, image_size, bad) if in_memory else (None, _checked(name, part, bad))
        files = ImageFiles([part[number][0] for number in kept], image_size, skip_bad=skip_bad)
        labels = torch.tensor([part[number][1] for number in kept])
        splits[name] = Split(files, labels) if images is None else Split(images, labels, files)
    if bad:
        notes.append(_left_out(bad, count, skip_bad=skip_bad))
    for name, split in splits.items():
        if not len(split):
            raise DataError(f"none of the {len(found[name])} images of the {name} part can be read")
    if val_is_test:
        splits["test"] = splits["val"]
    return ImageData(f"imagefolder:{path}{VAL_IS_TEST if val_is_test else ''}", classes, notes=notes, **splits)


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


def _list_images(folder: Path, classes: list[str]) -> Part:
    """Every image of a split with its class, in the order of names."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; it must hold one folder for every class of train")
    unknown = {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")} - {
        *classes
    }
    if unknown:
        raise DataError(f"{folder} has a class that train has not: {', '.join(map(repr, sorted(unknown)))}")
    images: Part = []
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


def _take_test(images: Part, folder: Path) -> tuple[Part, Part]:
    """Split a fixed share of every class off: the same files on every machine and for every seed."""
    train: Part = []
    test: Part = []
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


def _read(part: Part, side: int, bad: dict[Path, DataError]) -> tuple[Tensor, list[int]]:
    """The images that can be read, and their numbers."""
    images = torch.empty(len(part), 3, side, side, dtype=torch.uint8)

    def read(number: int) -> None:
        images[number] = read_image(part[number][0], side)

    kept = _readable(part, read, bad)
    for place, number in enumerate(kept):
        if place != number:  # closed up in place: a copy would take the memory twice
            images[place] = images[number]
    return images[: len(kept)], kept


def _checked(name: str, part: Part, bad: dict[Path, DataError]) -> list[int]:
    """The numbers of the images that can be read; of all training images, since the first epoch tells.

    Of the others only its end would, and the epoch be lost.
    """
    if name == "train":
        return list(range(len(part)))
    return _readable(part, lambda number: check_image(part[number][0]), bad)


def _readable(part: Part, read: Callable[[int], None], bad: dict[Path, DataError]) -> list[int]:
    """The numbers of the images that ``read`` can read; what is wrong with the others goes to ``bad``."""

    def error_of(number: int) -> DataError | None:
        try:
            read(number)
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor() as threads:
        errors = list(threads.map(error_of, range(len(part))))
    bad.update({file: error for (file, _), error in zip(part, errors, strict=True) if error is not None})
    return [number for number, error in enumerate(errors) if error is None]


def _left_out(bad: dict[Path, DataError], count: int, *, skip_bad: bool) -> str:
    """A note of the images that are left out, or the error that there are such."""
    first, *others = sorted(bad)
    if not skip_bad:
        more = f"; {len(others)} more cannot be read: {_names(others)}" if others else ""
        raise DataError(f"{bad[first]}{more}") from bad[first]
    return f"{len(bad)} of {count} images are left out, since they cannot be read: {_names(sorted(bad))}"


def _names(files: list[Path]) -> str:
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(map(str, files[:NAMED])) + more
