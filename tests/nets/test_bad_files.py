"""Files that are broken, forged or half written: a clear error, never code that runs, never a lost file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torchvision import models

import saccade
from saccade.errors import DataError, UsageError
from saccade.nets import CifarResNet


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    saccade.save(saccade.augment(CifarResNet(8, widths=(4, 8, 8)), "se", at="residual"), path)
    return path


def test_a_cut_file_is_an_error(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in (0, 4, 60, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"model.safetensors is no safetensors file"):
            saccade.load(saved)


@pytest.mark.parametrize("content", [b"hello world, this is text", b"\xff" * 8 + b"{}", b"\x02" + b"\0" * 7 + b"{}"])
def test_another_kind_of_file_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=r"file is no safetensors file|file was not written by saccade.save"):
        saccade.load(tmp_path / "file")


def test_a_pickle_is_an_error_and_is_not_opened(tmp_path: Path) -> None:
    torch.save({"model": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(DataError, match=r"model.pt is no safetensors file"):
        saccade.load(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_file_that_is_not_there_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        saccade.load(tmp_path / name)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"saccade": "{"}, {"saccade": "[]"}])
def test_safetensors_of_others_are_an_error(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "file", metadata=metadata)
    with pytest.raises(
        DataError, match=r"was not written by saccade.save: it has no description of schema 'saccade.mo"
    ):
        saccade.load(tmp_path / "file")


RESNET = {"library": "torchvision", "name": "resnet18", "options": {}}
NO_EDITS = {"schema": "saccade.plan/1", "edits": []}


def forge(path: Path, **changes: Any) -> Path:
    about = {"schema": "saccade.model/1", "plan": NO_EDITS, "host": RESNET} | changes
    save_file({"weight": torch.zeros(2)}, path, metadata={"saccade": json.dumps(about)})
    return path


OTHER = "file names its host in a way that saccade.save does not: "


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "saccade.model/2"}, "was not written by saccade.save: it has no description of schema"),
        ({"host": {}}, OTHER),
        ({"host": "timm:resnet18"}, OTHER),
        ({"host": [1]}, OTHER),
        ({"host": RESNET | {"library": "os"}}, OTHER),
        ({"host": RESNET | {"library": ["timm"]}}, OTHER),
        ({"host": RESNET | {"name": 3}}, OTHER),
        ({"host": RESNET | {"options": [1]}}, OTHER),
        ({"host": RESNET | {"options": {"weights": "DEFAULT"}}}, OTHER),
        ({"host": {"library": "timm", "name": "resnet18", "options": {"checkpoint_path": "weights.pth"}}}, OTHER),
        ({"host": {"library": "timm", "name": "resnet18", "options": {"pretrained": True}}}, OTHER),
        ({"host": {"library": "timm", "name": "hf-hub:someone/model", "options": {}}}, "is no model of timm"),
        ({"plan": "abc"}, "file: not a plan of schema 'saccade.plan/1': its schema is None"),
        ({"plan": {"schema": "saccade.plan/2", "edits": []}}, "not a plan of schema .* its schema is 'saccade.plan/2'"),
        ({"plan": {"schema": "saccade.plan/1", "edits": [{"site": "conv1"}]}}, "file: not an edit of a plan: "),
    ],
    ids=str,
)
def test_a_description_of_another_form_is_an_error(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        saccade.load(forge(tmp_path / "file", **changes))


@pytest.mark.parametrize(
    ("library", "name", "options"),
    [
        ("torchvision", "resnet18", {"num_classes": -1}),
        ("torchvision", "resnet18", {"num_classes": True}),
        ("torchvision", "resnet18", {"num_classes": "7"}),
        ("torchvision", "resnet18", {"num_classes": 3.5}),
        ("torchvision", "resnet18", {"num_classes": None}),
        ("torchvision", "resnet18", {"num_classes": [1]}),
        ("timm", "resnet18", {"num_classes": 3, "in_chans": -3}),
        ("timm", "resnet18", {"in_chans": {}}),
        ("saccade", "cifar_resnet", {"num_classes": -1}),
    ],
    ids=str,
)
def test_a_size_of_the_host_that_is_none_is_an_error(
    library: str, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    forged = forge(tmp_path / "file", host={"library": library, "name": name, "options": options})
    with pytest.raises(
        DataError, match=r"file names its host with `\w+` \(=.*\), which must be an integer of at least 0"
    ):
        saccade.load(forged)


@pytest.mark.parametrize(
    ("library", "name", "options", "reason"),
    [
        ("torchvision", "resnet18", {"num_classes": 10**15}, "memory|Storage size"),
        ("torchvision", "resnet81", {}, "is no model of torchvision"),
        ("timm", "resnet81", {}, "is no model of timm"),
        ("timm", "resnet18", {"in_chans": 0}, ""),
        ("saccade", "cifar_resnet", {"depth": 10}, "must be 6n"),
        ("saccade", "cifar_resnet", {"depth": "deep"}, "`depth`"),
        ("saccade", "cifar_resnet", {"block": ["basic"]}, "`block`"),
        ("saccade", "cifar_resnet", {"widths": 3}, "`widths`"),
        ("saccade", "cifar_resnet", {"stem_stride": 0}, "`stem_stride`"),
    ],
    ids=str,
)
def test_a_host_that_cannot_be_built_is_an_error_of_the_file(
    library: str, name: str, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    forged = forge(tmp_path / "file", host={"library": library, "name": name, "options": options})
    with pytest.raises(
        DataError, match=rf"file names as its host {library}:{name}.* cannot be built here: .*({reason})"
    ):
        saccade.load(forged)


def test_a_file_that_names_code_as_its_host_does_not_run_it(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\ndef host(): pass\n")
    for host, message in (
        ({"library": "file", "name": f"{code}:host", "options": {}}, OTHER),
        ({"library": "timm", "name": f"{code}:host", "options": {}}, "is no model of timm"),
        ({"library": f"{code}", "name": "host", "options": {}}, OTHER),
    ):
        with pytest.raises(DataError, match=message):
            saccade.load(forge(tmp_path / "file", host=host))
    assert not (tmp_path / "ran").exists()


def test_tensors_that_the_host_lacks_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the weights of .*file do not fit this host"):
        saccade.load(forge(tmp_path / "file"))


def test_a_file_without_what_strip_puts_back_is_an_error(tmp_path: Path) -> None:
    saccade.save(saccade.augment(models.resnet18(), "aaconv", at="layer4.1.conv2", start="paper"), tmp_path / "model")
    with safe_open(str(tmp_path / "model"), framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys() if "saccade_replaced" not in name}  # noqa: SIM118
        save_file(kept, tmp_path / "cut", metadata=file.metadata())
    with pytest.raises(
        UsageError, match=r"do not fit this host: the file lacks layer4.1.conv2.saccade_replaced.weight"
    ):
        saccade.load(tmp_path / "cut")


KILLED = """
import os, signal, sys, torch, safetensors.torch
from pathlib import Path
from saccade.nets import CifarResNet
from saccade.nets.recognise import recognise
import saccade
whole = safetensors.torch.save_file
def cut(tensors, filename, **options):
    whole(tensors, filename, **options)
    path = Path(filename)
    path.write_bytes(path.read_bytes()[:100])
    os.kill(os.getpid(), signal.SIGKILL)
safetensors.torch.save_file = cut
saccade.save(CifarResNet(8, widths=(4, 8, 8)), sys.argv[1])
"""


def test_a_process_killed_half_way_leaves_the_file_as_it_was(saved: Path) -> None:
    before = saved.read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(saved)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert saved.read_bytes() == before
    assert not [path for path in saved.parent.iterdir() if path.suffix == ".safetensors" and path != saved]
    saccade.load(saved)


def test_an_error_on_the_way_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "taken" / "model", tmp_path / "folder", "/proc/model"):
        with pytest.raises(saccade.SaccadeError, match=str(path)):
            saccade.save(models.resnet18(), path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "taken"]
    assert not list((tmp_path / "folder").iterdir())
