"""Images in folders: PATH/train/CLASS/*, PATH/val/CLASS/*, and where there is one PATH/test/CLASS/*."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor

from saccade._checks import check_int
from saccade._seeds import derive_seed
from saccade.data.files import ImageFiles, read_image
from saccade.data.images import ImageData, Split
from saccade.errors import DataError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
TEST_SHARE = 0.2
IN_MEMORY = 2 << 30  # bytes


def load_image_folder(
    path: Path | str, image_size: int, *, skip_bad: bool = False, in_memory: bool | None = None
) -> ImageData:
    """A folder of images, as RGB of ``image_size`` x ``image_size``.

    The shorter side is resized to ``image_size`` and the middle square is kept. Where there is no ``test`` folder, a
    fixed fifth of every class of ``train``, one image at least, is taken for it, and a note says so.

    Args:
        path: of the folder.
        image_size: the side of the squares.
        skip_bad: leave out images that cannot be read; how many is noted, or logged when it is met.
        in_memory: read all now, or each when it is asked for; by default now, if they take at most 2 GiB.

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
    files = sorted(file for part in found.values() for file, _ in part)
    if in_memory if in_memory is not None else 3 * image_size**2 * len(files) <= IN_MEMORY:
        images = _read_all(files, image_size, skip_bad=skip_bad)
        if bad := [file for file in files if file not in images]:
            notes.append(
                f"{len(bad)} of {len(files)} images are left out, since they cannot be read: the first is {bad[0]}"
            )
        splits = {name: _in_memory(name, part, images) for name, part in found.items()}
    else:
        splits = {
            name: Split(
                ImageFiles([file for file, _ in part], image_size, skip_bad=skip_bad),
                torch.tensor([label for _, label in part]),
            )
            for name, part in found.items()
        }
    return ImageData(f"imagefolder:{path}", classes, notes=notes, **splits)


def _in_memory(name: str, part: list[tuple[Path, int]], images: dict[Path, Tensor]) -> Split:
    readable = [(images[file], label) for file, label in part if file in images]
    if not readable:
        raise DataError(f"none of the {len(part)} images of the {name} part can be read")
    return Split(torch.stack([image for image, _ in readable]), torch.tensor([label for _, label in readable]))


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


def _read_all(files: list[Path], image_size: int, *, skip_bad: bool) -> dict[Path, Tensor]:
    """Every image as uint8 (3, S, S). Those that cannot be read are told together, or left out."""
    images, broken = {}, []
    with ThreadPoolExecutor() as threads:
        for file, image in zip(files, threads.map(lambda file: _read(file, image_size), files), strict=True):
            if isinstance(image, DataError):
                broken.append(image)
            else:
                images[file] = image
    if broken and not skip_bad:
        others = f"; {len(broken) - 1} more cannot be read" if len(broken) > 1 else ""
        raise DataError(f"{broken[0]}{others}") from broken[0]
    return images


def _read(file: Path, image_size: int) -> Tensor | DataError:
    try:
        return read_image(file, image_size)
    except DataError as error:
        return error
