"""Users' own folders: what is read, what is converted, and what is said when it cannot be."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data import ImageData, load_data
from saccade.errors import DataError, UsageError

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def make_folder(root: Path, *, splits: tuple[str, ...] = ("train", "val"), per_class: int = 10) -> Path:
    for split in splits:
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                Image.new("RGB", (20 + number, 16), colour).save(folder / f"{number}.png")
    return root


def load(root: Path, image_size: int = 8):
    return load_data(f"imagefolder:{root}", image_size)


def test_images_of_all_sizes_become_squares_with_their_classes(tmp_path):
    data = load(make_folder(tmp_path, splits=("train", "val", "test")), 12)
    assert data.classes == ["blue", "red"]
    assert data.shape == (3, 12, 12)
    assert (len(data.train), len(data.val), len(data.test)) == (20, 20, 20)
    for split in (data.train, data.val, data.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert image[:, 6, 6].tolist() == list(COLOURS[data.classes[label]])
    assert data.notes == []


def test_a_missing_test_folder_is_split_from_train_and_said(tmp_path):
    root = make_folder(tmp_path)
    data, again = load(root), load(root)
    assert (len(data.train), len(data.test)) == (16, 4)
    assert data.test.labels.bincount().tolist() == [2, 2]
    assert data.digest == again.digest
    assert len(data.notes) == 1
    assert re.search(r"no test folder: 4 of its training images", data.notes[0])


@pytest.mark.parametrize("with_test", [False, True])
def test_val_is_the_test_where_that_is_asked(tmp_path, with_test):
    root = make_folder(tmp_path / "c,test=1", splits=("train", "val"))
    if with_test:
        (root / "test").mkdir()  # ImageNet's own, without classes
    data = load_data(f"imagefolder:{root},test=val", 8)
    assert data.name == f"imagefolder:{root},test=val"
    assert (len(data.train), len(data.val)) == (20, 20)
    assert data.test is data.val
    (note,) = data.notes
    assert note.startswith(f"{root / 'val'} is the test too: ")
    data.save(tmp_path / "images.safetensors")
    assert torch.equal(ImageData.load(tmp_path / "images.safetensors").test.images, data.val.images)


def test_the_note_of_the_cut_says_how_to_do_without(tmp_path):
    (note,) = load(make_folder(tmp_path)).notes
    name = re.search(r"(imagefolder:\S+) trains on all", note)
    assert name
    assert len(load_data(name[1], 8).train) == 20


def test_the_split_keeps_train_and_test_apart(tmp_path):
    for split in ("train", "val"):
        for name in COLOURS:
            (tmp_path / split / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(20):
        for name in COLOURS:
            for split in ("train", "val"):
                noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / split / name / f"{number}.png")
    data = load(tmp_path)
    train, test = ({image.numpy().tobytes() for image in split.images} for split in (data.train, data.test))
    assert len(train) == 32
    assert len(test) == 8
    assert not train & test


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("L", 100, [100, 100, 100]),
        ("1", 1, [255, 255, 255]),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("LA", (50, 255), [50, 50, 50]),
        ("CMYK", (0, 0, 0, 0), [255, 255, 255]),
        ("I;16", 0x8000, [128, 128, 128]),
    ],
)
def test_images_of_other_modes_become_rgb(tmp_path, mode, pixel, expected):
    root = make_folder(tmp_path)
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (16, 16), pixel).save(root / "val" / "red" / f"!first.{suffix}")
    data = load(root)
    first = data.val.images[data.val.labels == 1][0]
    assert first[:, 4, 4].tolist() == expected


def test_a_palette_image_becomes_its_colours(tmp_path):
    root = make_folder(tmp_path)
    Image.new("RGB", (16, 16), (200, 100, 50)).quantize(4).save(root / "val" / "red" / "!first.png")
    assert load(root).val.images[10][:, 4, 4].tolist() == [200, 100, 50]


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"there is no folder {tmp_path / 'nowhere'}")):
        load(tmp_path / "nowhere")


def test_a_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_folder(tmp_path / "photos")
    assert len(load_data("imagefolder:~/photos", 8).val) == 20


def test_no_train(tmp_path):
    with pytest.raises(DataError, match=r"has no folder train; put images at"):
        load(tmp_path)


def test_no_val(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"there is no folder {tmp_path / 'val'}")):
        load(make_folder(tmp_path, splits=("train",)))


def test_one_class_only(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "red").mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds only the class 'red'; a comparison needs two classes"):
        load(tmp_path)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_class_is_named_with_its_folder(tmp_path, split):
    root = make_folder(tmp_path, splits=("train", "val", "test"))
    for file in (root / split / "red").iterdir():
        file.unlink()
    with pytest.raises(
        DataError, match=re.escape(f"class 'red' is empty: there is no image in {root / split / 'red'}")
    ):
        load(root)


def test_a_class_that_train_has_not(tmp_path):
    root = make_folder(tmp_path)
    (root / "val" / "green").mkdir()
    with pytest.raises(DataError, match=r"has a class that train has not: 'green'"):
        load(root)


def test_unreadable_images_are_named_and_counted(tmp_path):
    root = make_folder(tmp_path)
    whole = (root / "train" / "red" / "3.png").read_bytes()
    (root / "train" / "blue" / "5.png").write_text("this is no picture")
    (root / "train" / "red" / "3.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "red" / "4.png").write_bytes(b"")
    named = re.escape(str(root / "train" / "blue" / "5.png"))
    with pytest.raises(DataError, match=rf"{named} cannot be read as an image: .*; 2 more cannot be read"):
        load(root)


def test_pixels_of_unknown_range_are_refused(tmp_path):
    root = make_folder(tmp_path)
    Image.new("F", (16, 16), 0.5).save(root / "train" / "red" / "x.tiff")
    with pytest.raises(DataError, match=r"mode 'F', whose range is unknown"):
        load(root)


def test_a_size_too_small(tmp_path):
    with pytest.raises(UsageError, match=r"`image_size` .=4. must be an integer of at least 8"):
        load(tmp_path, 4)


@pytest.mark.parametrize("name", ["mnist", "imagefolder:", "imagefolder", ""])
def test_an_unknown_data_set(name):
    with pytest.raises(UsageError, match=r"must be sample, cifar10, cifar100 or imagefolder:PATH"):
        load_data(name)


def test_other_files_are_not_images(tmp_path):
    root = make_folder(tmp_path)
    (root / "train" / "red" / "Thumbs.db").write_bytes(b"\x00")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "red" / "._1.png").write_bytes(b"what an archive of another system leaves")
    (root / "train" / "red" / "folder.png").mkdir()
    copies = root / "train" / "red" / ".ipynb_checkpoints"
    copies.mkdir()
    (copies / "1.png").write_bytes((root / "train" / "red" / "1.png").read_bytes())
    assert torch.equal(load(root).train.labels.bincount(), torch.tensor([8, 8]))
