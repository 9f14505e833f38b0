"""CIFAR from torchvision's files, made here in their format: what the real ones hold cannot be downloaded by a test."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from saccade.data import load_data
from saccade.data.cifar import load_cifar
from saccade.errors import DataError

CLASSES = [f"class {n}" for n in range(100)]


def write(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    folder = root / datasets.CIFAR100.base_folder
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6200, 3072), dtype=np.uint8)
    labels = [n % 100 for n in range(6200)]
    parts = {
        "train": {"data": pixels[:6000], "fine_labels": labels[:6000]},
        "test": {"data": pixels[6000:], "fine_labels": labels[6000:]},
        "meta": {"fine_label_names": CLASSES},
    }
    sums = {}
    for name, content in parts.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()  # noqa: S324  torchvision's own check
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    meta = {**datasets.CIFAR100.meta, "md5": sums["meta"]}
    monkeypatch.setattr(datasets.CIFAR100, "meta", meta)
    return pixels


def test_the_parts_are_those_of_the_files_and_validation_is_balanced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = write(tmp_path, monkeypatch)
    data = load_data("cifar100", data_dir=tmp_path)
    assert data.classes == CLASSES
    assert (len(data.train), len(data.val), len(data.test)) == (1000, 5000, 200)
    assert torch.bincount(data.val.labels).tolist() == [50] * 100
    assert torch.equal(data.test.images.flatten(1), torch.from_numpy(pixels[6000:]))
    assert data.test.labels.tolist() == [n % 100 for n in range(200)]
    both = torch.cat([data.train.images, data.val.images]).flatten(1)
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, pixels[:6000]))
    again = load_cifar("cifar100", tmp_path)
    assert torch.equal(again.val.images, data.val.images)
    assert again.digest == data.digest


def test_a_copy_that_is_not_whole_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, monkeypatch)
    (tmp_path / "cifar-100-python" / "test").write_bytes(b"cut short")
    monkeypatch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/refused.tar.gz")
    with pytest.raises(DataError, match=rf"{tmp_path} has no whole CIFAR100, and none can be downloaded: .*--data-dir"):
        load_cifar("cifar100", tmp_path)
