"""Images that stay on disk until they are asked for."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from saccade.data import AugmentSettings, ImageData, TrainBatches
from saccade.data.files import ImageFiles, check_image, crop_box, read_image
from saccade.data.image_folder import load_image_folder
from saccade.errors import DataError
from training.runs import image_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images", train=10, others=3)


def batches_of(
    folder: Path, settings: AugmentSettings, *, in_memory: bool, workers: int = 0
) -> list[tuple[Tensor, Tensor]]:
    data = load_image_folder(folder, 12, in_memory=in_memory)
    batches = TrainBatches(data, 4, 0, settings, workers=workers)
    batches.set_epoch(1)
    return list(batches)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("resized_crop", [None, 0.1])
def test_batches_are_those_of_the_same_images_in_memory(
    tmp_path: Path, workers: int, resized_crop: float | None
) -> None:
    folder = image_folder(tmp_path, train=10, others=3, side=31)
    settings = AugmentSettings(crop=2, policy="rand", erase=0.5, resized_crop=resized_crop)
    memory = batches_of(folder, settings, in_memory=True)
    files = batches_of(folder, settings, in_memory=False, workers=workers)
    assert len(memory) == len(files) == 5
    for (ours, our_labels), (theirs, their_labels) in zip(memory, files, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(our_labels, their_labels)


def test_statistics_and_shape_are_those_of_the_images(folder: Path) -> None:
    memory, files = (load_image_folder(folder, 12, in_memory=there) for there in (True, False))
    assert isinstance(files.train.images, ImageFiles)
    assert files.shape == memory.shape == (3, 12, 12)
    assert all(torch.equal(a, b) for a, b in zip(files.statistics, memory.statistics, strict=True))


def test_the_digest_notices_another_file(folder: Path) -> None:
    first = load_image_folder(folder, 12, in_memory=False).digest
    assert load_image_folder(folder, 12, in_memory=False).digest == first
    (folder / "val/red/0.png").rename(folder / "val/red/9.png")
    assert load_image_folder(folder, 12, in_memory=False).digest != first


def test_other_processes_find_the_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    data = load_image_folder(folder.name, 12, in_memory=False)
    data.save(tmp_path / "images.safetensors")
    digest = data.digest
    monkeypatch.chdir("/")
    again = ImageData.load(tmp_path / "images.safetensors")
    assert (again.name, again.classes, again.digest) == (data.name, data.classes, digest)
    rows = torch.arange(3)
    assert torch.equal(again.train.take(rows)[0], load_image_folder(folder, 12).train.images[rows])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_in_the_middle_of_an_epoch_is_named(folder: Path, workers: int) -> None:
    data = load_image_folder(folder, 12, in_memory=False)
    bad = folder / "train/green/4.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"^{bad} cannot be read as an image: ") as raised:
        list(TrainBatches(data, 4, 0, workers=workers))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_counted_and_the_others_given(folder: Path, workers: int) -> None:
    for name in ("train/green/4.png", "train/red/0.png"):
        (folder / name).write_bytes(b"no image")
    data = load_image_folder(folder, 12, in_memory=False, skip_bad=True)
    batches = TrainBatches(data, 4, 0, workers=workers)
    given = list(batches)
    assert batches.skipped == 2
    assert sum(len(labels) for _, labels in given) == 18
    assert all(len(images) == len(labels) for images, labels in given)


@pytest.mark.parametrize("part", ["val", "test"])
def test_images_that_are_read_after_an_epoch_are_checked_before_it(folder: Path, part: str) -> None:
    bad = folder / part / "red/1.jpg"
    Image.open(folder / part / "red/1.png").resize((200, 200)).save(bad)
    load_image_folder(folder, 12, in_memory=False)
    bad.write_bytes(bad.read_bytes()[:-200])
    with Image.open(bad) as picture:
        assert picture.size == (200, 200), "the header is whole"
    with pytest.raises(DataError, match=rf"^{bad} cannot be read as an image: "):
        load_image_folder(folder, 12, in_memory=False)
    data = load_image_folder(folder, 12, in_memory=False, skip_bad=True)
    assert data.notes == [f"1 of 33 images are left out, since they cannot be read: {bad}"]
    assert len(getattr(data, part)) == 6


@pytest.mark.parametrize(
    ("mode", "readable"), [("L", True), ("RGBA", True), ("I;16", True), ("CMYK", True), ("F", False)]
)
def test_what_the_check_refuses_is_what_cannot_be_read(tmp_path: Path, mode: str, readable: bool) -> None:
    file = tmp_path / "picture.tiff"
    Image.new(mode, (9, 9)).save(file)
    for read in (check_image, lambda file: read_image(file, 8)):
        with nullcontext() if readable else pytest.raises(DataError, match="mode 'F', whose range is unknown"):
            read(file)


def test_skipped_images_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "train/red/0.png").write_bytes(b"no image")
    files = ImageFiles(sorted((folder / "train/red").iterdir()), 12, skip_bad=True)
    with caplog.at_level(logging.WARNING, "saccade"):
        images, rows = files.take(torch.tensor([1, 0, 2]))
    assert rows.tolist() == [1, 2]
    assert torch.equal(images[0], read_image(files.files[1], 12))
    assert f"{folder / 'train/red/0.png'} cannot be read as an image" in caplog.text
    images, rows = files.take(torch.tensor([0]))
    assert (images.shape, rows.shape) == ((0, 3, 12, 12), (0,))


def test_a_batch_without_a_readable_image_ends_the_training(folder: Path) -> None:
    for file in (folder / "train/red").iterdir():
        file.write_bytes(b"no image")
    data = load_image_folder(folder, 12, in_memory=False, skip_bad=True)
    with pytest.raises(DataError, match="none of the 1 images of a batch can be read"):
        list(TrainBatches(data, 1, 0))


def test_the_count_of_skipped_images_goes_on_where_a_run_was_killed(folder: Path) -> None:
    for file in (folder / "train/green").glob("[1-4].png"):
        file.write_bytes(b"no image")
    data = load_image_folder(folder, 12, in_memory=False, skip_bad=True)
    first, second = (TrainBatches(data, 4, 0) for _ in range(2))
    given = iter(first)
    for _ in range(3):
        next(given)
    assert 0 < first.skipped < 4
    second.load_state_dict(first.state_dict())
    list(second)
    assert second.skipped == 4


def test_in_memory_bad_images_are_an_error_or_named_and_counted(folder: Path) -> None:
    whole = load_image_folder(folder, 12)
    bad = [folder / name for name in ("test/red/1.png", "train/green/9.png", "train/red/0.png")]
    for file in bad:
        file.write_bytes(b"no image")
    with pytest.raises(
        DataError, match=rf"{bad[0]} cannot be read as an image: .*; 2 more cannot be read: {bad[1]}, {bad[2]}$"
    ):
        load_image_folder(folder, 12)
    data = load_image_folder(folder, 12, skip_bad=True)
    assert data.notes == [
        f"3 of 32 images are left out, since they cannot be read: {', '.join(map(str, bad))}",
    ]
    # Without the last of the greens, number 9, and the first of the reds, the next.
    kept = [*range(9), *range(11, 20)]
    assert torch.equal(data.train.images, whole.train.images[kept])
    assert torch.equal(data.train.labels, whole.train.labels[kept])
    assert len(data.test) == 5


def test_of_many_bad_images_a_few_are_named(folder: Path) -> None:
    for file in (folder / "train/red").iterdir():
        file.write_bytes(b"no image")
    (note,) = load_image_folder(folder, 12, skip_bad=True).notes
    assert note.startswith("10 of 32 images are left out, since they cannot be read: ")
    assert note.count(".png") == 5
    assert note.endswith(" and 5 more")


def test_a_part_without_a_readable_image_is_an_error(folder: Path) -> None:
    for file in (folder / "val").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^none of the 6 images of the val part can be read$"):
        load_image_folder(folder, 12, skip_bad=True)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not forget a peak of memory")
def test_loading_takes_the_memory_of_the_images_once(tmp_path: Path) -> None:
    """In a process of its own, whose highest use of memory is forgotten just before."""
    folder, side = image_folder(tmp_path, train=90, others=10), 300  # 220 images, 59 MB
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(folder), str(side)], capture_output=True, text=True, check=True
    )
    # Beside them there are only Pillow's and NumPy's copies of the few that the threads are at.
    assert 0.9 < int(done.stdout) * 1024 / (220 * 3 * side**2) < 1.6


LOADED = """
import re, sys
from pathlib import Path
from saccade.data.image_folder import load_image_folder

def kib(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

Path("/proc/self/clear_refs").write_text("5")
before = kib("VmRSS")
data = load_image_folder(Path(sys.argv[1]), int(sys.argv[2]))
print(kib("VmHWM") - before)
"""


def test_a_crop_keeps_its_share_and_ratio_and_lies_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = []
    for draws in torch.rand(500, 4, generator=generator):
        top, left, height, width = crop_box(draws, 300, 400, 0.1)
        assert 0 <= top <= top + height <= 300
        assert 0 <= left <= left + width <= 400
        share = height * width / 300 / 400
        assert 0.09 < share <= 1
        if height < 300 and width < 400:
            assert 0.74 < width / height < 1.36
        shares.append(share)
    # Uniform from 0.1 to 1: the mean is 0.55; what exceeds the image is cut.
    assert 0.5 < sum(shares) / 500 < 0.6


def test_without_a_share_the_crop_is_nearly_the_image() -> None:
    assert crop_box(torch.tensor([0.3, 0.5, 0.9, 0.9]), 30, 30, 1.0) == (0, 0, 30, 30)
