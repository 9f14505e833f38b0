"""Hosts by name: timm's, torchvision's, our own, a function in a file, with options."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from saccade.errors import UsageError
from saccade.nets import CifarResNet
from saccade.nets.hosts import Host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("resnet18", Host("timm", "resnet18")),
        ("timm:resnet18", Host("timm", "resnet18")),
        ("resnet18.a1_in1k", Host("timm", "resnet18.a1_in1k")),
        ("torchvision:resnet18", Host("torchvision", "resnet18")),
        ("saccade:cifar_resnet", Host("saccade", "cifar_resnet")),
        ("saccade:cifar_resnet(depth=20)", Host("saccade", "cifar_resnet", {"depth": 20})),
        (
            "timm:resnet18(num_classes=7, global_pool='max')",
            Host("timm", "resnet18", {"num_classes": 7, "global_pool": "max"}),
        ),
        ("nets/mine.py:build", Host("file", "nets/mine.py:build")),
        ("mine.py:build(width=4)", Host("file", "mine.py:build", {"width": 4})),
        ("C:/nets/mine.py:build", Host("file", "C:/nets/mine.py:build")),
    ],
)
def test_every_form_of_a_name_is_read_and_written_the_same(text: str, host: Host) -> None:
    assert Host.parse(text) == host
    assert Host.parse(str(host)) == host


FORMS = r"`model` \(=.*\) must be a timm name \(resnet18\), torchvision:NAME, saccade:NAME or path/to/file.py:function"


@pytest.mark.parametrize("text", ["", "  ", "timm:", "torchvision:", "saccade:", ":resnet18", 3, None, ["resnet18"]])
def test_what_is_no_name_is_an_error_with_every_form(text: Any) -> None:
    with pytest.raises(UsageError, match=FORMS):
        Host.parse(text)


def test_an_unknown_library_is_an_error_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=rf"{FORMS}.*\(did you mean 'torchvision'\?\)"):
        Host.parse("torchvison:resnet18")


@pytest.mark.parametrize(
    "text", ["resnet18(", "resnet18(depth)", "resnet18(depth=)", "resnet18(x=open('y'))", "resnet18()3"]
)
def test_options_that_cannot_be_read_are_an_error(text: str) -> None:
    with pytest.raises(UsageError, match=rf"`model` \(={re.escape(repr(text))}\) must be a timm name"):
        Host.parse(text)


@pytest.mark.parametrize(
    ("text", "kind", "classes"),
    [
        ("timm:resnet18(num_classes=7)", timm.models.ResNet, 7),
        ("torchvision:resnet18(num_classes=6)", torchvision.models.ResNet, 6),
        ("saccade:cifar_resnet(depth=8, num_classes=5)", CifarResNet, 5),
    ],
)
def test_a_library_builds_its_network_with_the_options(text: str, kind: type, classes: int) -> None:
    model = Host.parse(text).build()
    assert type(model) is kind
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, classes)


def test_a_torchvision_network_with_a_backbone_is_built_without_any_weights() -> None:
    # Weights of the backbone would be downloaded unless told otherwise.
    model = Host.parse("torchvision:lraspp_mobilenet_v3_large(num_classes=4)").build()
    assert model.eval()(torch.zeros(1, 3, 64, 64))["out"].shape == (1, 4, 64, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet81", r"`model` \(='resnet81'\) is no model of timm [\d.]+\w* \(did you mean .*resnet"),
        ("timm:hf-hub:someone/model", r"must be a timm name|is no model of timm"),
        ("torchvision:resnet81", r"`model` \(='resnet81'\) is no model of torchvision \(did you mean .*'resnet18'"),
        ("saccade:resnet18", r"`model` \(='saccade:resnet18'\) is no network of ours"),
        ("saccade:cifar_resnet(width=3)", r"has no option 'width' \(did you mean 'widths'\?\)"),
        ("saccade:cifar_resnet(depth=10)", r"`depth` \(=10\) must be 6n \+ 2 with basic blocks"),
        ("resnet18(clases=3)", r"`model` \(=.*clases=3.*\) cannot be built: .*clases"),
        ("torchvision:resnet18(clases=3)", r"`model` \(=.*clases=3.*\) cannot be built: .*clases"),
        ("torchvision:resnet18(weights='DEFAULT')", r"cannot be built: .*weights"),
    ],
)
def test_a_name_or_option_that_the_library_lacks_is_an_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Host.parse(text).build()


def test_our_own_networks_have_no_pretrained_weights() -> None:
    with pytest.raises(UsageError, match=r"`pretrained` \(=True\): there are no weights of saccade:cifar_resnet"):
        Host.parse("saccade:cifar_resnet").build(pretrained=True)


MINE = """
from torch import nn

WIDTH = 3

def build(width=4, pretrained=False):
    net = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
    net.pretrained = pretrained
    return net

def number():
    return 3

def broken():
    raise ValueError("no such file of weights")
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_a_function_in_a_file_builds_the_network(mine: Path) -> None:
    model = Host.parse(f"{mine}:build").build()
    assert isinstance(model, nn.Sequential)
    assert model[0].out_channels == 4
    assert Host.parse(f"{mine}:build(width=6)").build()[0].out_channels == 6
    assert Host.parse(f"{mine}:build").build(pretrained=True).pretrained


WITH_A_DATACLASS = """
from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from widths import WIDTH


@dataclass
class Config:
    width: int = WIDTH


class Net(nn.Sequential):
    def __init__(self, config: Config) -> None:
        super().__init__(nn.Conv2d(3, config.width, 3))


def build():
    from kernels import KERNEL

    net = Net(Config())
    net.append(nn.Conv2d(WIDTH, 2, KERNEL))
    return net
"""


def test_a_file_can_have_dataclasses_and_neighbours(tmp_path: Path) -> None:
    (tmp_path / "modern.py").write_text(WITH_A_DATACLASS)
    (tmp_path / "widths.py").write_text("WIDTH = 5")
    (tmp_path / "kernels.py").write_text("KERNEL = 1")
    path = list(sys.path)
    model = Host.parse(f"{tmp_path / 'modern.py'}:build").build()
    assert [conv.kernel_size for conv in model.children()] == [(3, 3), (1, 1)]
    assert sys.path == path
    # Its classes are found where pickle looks for them, also those of an earlier run of the file.
    Host.parse(f"{tmp_path / 'modern.py'}:build").build()
    assert type(pickle.loads(pickle.dumps(model))) is type(model)  # noqa: S301


def test_a_file_by_the_name_of_a_library_does_not_take_its_place(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text(MINE)
    assert isinstance(Host.parse(f"{tmp_path / 'timm.py'}:build").build(), nn.Sequential)
    assert sys.modules["timm"] is timm


def test_a_relative_path_is_read_from_the_current_folder(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    assert isinstance(Host.parse("mine.py:build").build(), nn.Sequential)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("absent.py:build", r"`model` \(='absent.py:build'\): there is no file absent.py"),
        ("mine.py:bild", r"mine.py has no function 'bild' \(did you mean 'build'\?\)"),
        ("mine.py:", r"function|must be"),
        ("mine.py", r"path/to/file.py:function|is no model of timm"),
        ("mine.py:WIDTH", r"mine.py has no function 'WIDTH'"),
        ("mine.py:number", r"`model` \(='mine.py:number'\) must give an nn.Module; it gave int"),
        ("mine.py:build(depth=3)", r"`model` \(='mine.py:build\(depth=3\)'\) cannot be built: .*depth"),
    ],
)
def test_a_file_without_the_function_is_an_error(
    text: str, message: str, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mine.parent)
    with pytest.raises(UsageError, match=message):
        Host.parse(text).build()


def test_a_mistake_in_the_users_own_code_is_shown_as_it_is(mine: Path) -> None:
    with pytest.raises(ValueError, match="no such file of weights"):
        Host.parse(f"{mine}:broken").build()
    mine.write_text("def build(:")
    path, modules = list(sys.path), set(sys.modules)
    with pytest.raises(SyntaxError, match=r"invalid syntax|was never closed"):
        Host.parse(f"{mine}:build").build()
    assert sys.path == path
    assert not [name for name in set(sys.modules) - modules if "mine" in name]
