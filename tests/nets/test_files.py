"""Networks in files: what was saved comes back, by the file alone where a library builds the host; no code is run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

import saccade
from attention.builders import maps
from saccade.errors import DataError, UsageError
from saccade.nets import CifarResNet
from surgery.hosts import settle

IMAGE = maps(1, 3, 64, 64)
GREY = maps(1, 1, 64, 64)


def moved(model: nn.Module) -> nn.Module:
    """Every parameter and statistic as after some training."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in settle(model).parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def out(model: nn.Module, x: Tensor) -> Tensor:
    given = model.eval()(x)
    return given["out"] if isinstance(given, dict) else given


def described(path: Path) -> dict[str, Any]:
    with safe_open(str(path), framework="pt") as file:
        return json.loads(file.metadata()["saccade"])


def assert_same(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for value, expected in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert value.dtype is expected.dtype
        assert torch.equal(value, expected)
    assert saccade.plan_of(ours) == saccade.plan_of(theirs)
    assert torch.equal(out(ours, x), out(theirs, x))


def googlenet(**options: Any) -> nn.Module:
    return models.googlenet(num_classes=5, init_weights=False, **options)


def grey() -> nn.Module:
    return timm.create_model("resnet18", num_classes=7, in_chans=1)


def headless() -> nn.Module:
    return timm.create_model("regnety_002", num_classes=0)


def segmentation() -> nn.Module:
    return models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)


NAMED: dict[str, tuple[Callable[[], nn.Module], str, Tensor, dict[str, Any]]] = {
    "timm": (lambda: timm.create_model("regnety_002"), "residual", IMAGE, {}),
    "timm with a head and images of its own": (grey, "residual", GREY, {"num_classes": 7, "in_chans": 1}),
    "timm without a head": (headless, "stage", IMAGE, {"num_classes": 0}),
    "torchvision": (lambda: models.resnet18(num_classes=7), "residual", IMAGE, {"num_classes": 7}),
    "torchvision, auxiliary heads": (lambda: googlenet(aux_logits=True), "stage", maps(1, 3, 96, 96), {}),
    "torchvision, segmentation": (segmentation, "residual", IMAGE, {"num_classes": 4}),
    "torchvision, not on the meta device": (lambda: models.regnet_x_400mf(num_classes=4), "residual", IMAGE, {}),
    "saccade": (
        lambda: CifarResNet(11, block="bottleneck", widths=(4, 8, 16), num_classes=3),
        "residual",
        IMAGE,
        {"depth": 11, "block": "bottleneck", "widths": [4, 8, 16], "num_classes": 3},
    ),
}


# Of weights that are overwritten at once.
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet:FutureWarning")
@pytest.mark.parametrize("case", NAMED)
def test_a_host_that_a_library_builds_comes_back_from_the_file_alone(case: str, tmp_path: Path) -> None:
    make, at, x, options = NAMED[case]
    model = moved(saccade.augment(make(), "se", at=at, example_input=torch.zeros_like(x)))
    path = tmp_path / "deep" / "model.safetensors"
    saccade.save(model, path)
    host = described(path)["host"]
    assert host["library"] == case.partition(" ")[0].rstrip(",")
    assert options.items() <= host["options"].items()
    assert_same(saccade.load(path, example_input=torch.zeros_like(x)), model, x)


@pytest.mark.parametrize(
    ("attention", "at"), [("aaconv", "layer4.*.conv1"), ("iebn", "layer4.*.bn2"), ("stn", "input")]
)
@pytest.mark.parametrize("start", ["identity", "paper"])
def test_every_form_of_an_edit_comes_back(attention: str, at: str, start: str, tmp_path: Path) -> None:
    model = moved(saccade.augment(models.resnet18(num_classes=3), attention, at=at, start=start))
    saccade.save(model, tmp_path / "model")
    assert_same(saccade.load(tmp_path / "model"), model, IMAGE)


def test_a_plain_network_is_saved_and_loaded_too(tmp_path: Path) -> None:
    host = moved(models.resnet18(num_classes=3))
    saccade.save(host, tmp_path / "host")
    assert_same(saccade.load(tmp_path / "host"), host, IMAGE)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.conv1(x).relu()).mean((2, 3)))


def test_a_network_of_ones_own_asks_for_its_host(tmp_path: Path) -> None:
    model = moved(saccade.augment(Own(), "se", at="conv"))
    saccade.save(model, tmp_path / "model")
    with pytest.raises(UsageError, match=r"model does not name its host.*give it: saccade.load\(path, host=model\)"):
        saccade.load(tmp_path / "model")
    host = Own()
    before = {key: value.clone() for key, value in host.state_dict().items()}
    assert_same(saccade.load(tmp_path / "model", host=host), model, IMAGE)
    assert len(saccade.plan_of(host)) == 0
    assert all(torch.equal(value, before[key]) for key, value in host.state_dict().items())


def test_the_host_can_be_given_by_name(tmp_path: Path) -> None:
    model = moved(saccade.augment(models.resnet18(replace_stride_with_dilation=[False, False, False]), "se"))
    saccade.save(model, tmp_path / "model")
    assert_same(saccade.load(tmp_path / "model", host="torchvision:resnet18"), model, IMAGE)
    with pytest.raises(UsageError, match=r"the weights of .*model do not fit this host"):
        saccade.load(tmp_path / "model", host="torchvision:resnet18(num_classes=3)")
    with pytest.raises(UsageError, match=r"no module at 'layer3.2.bn2'|do not fit this host"):
        saccade.load(tmp_path / "model", host="torchvision:resnet34")


def twice_the_logits(host: nn.Module) -> nn.Module:
    host.forward = lambda x: 2 * type(host).forward(host, x)
    return host


def hooked(host: nn.Module) -> nn.Module:
    host.relu.register_forward_hook(lambda _module, _args, output: 2 * output)
    return host


def shared(host: nn.Module) -> nn.Module:
    host.layer1[1] = host.layer1[0]
    return host


def tied(host: nn.Module) -> nn.Module:
    host.layer1[1].conv1.weight = host.layer1[0].conv1.weight
    return host


def cut(host: nn.Module) -> nn.Module:
    host.layer2 = host.layer2[:1]
    return host


def with_gelu(host: nn.Module) -> nn.Module:
    host.layer1[0].relu = nn.GELU()
    return host


# The name says nothing of these; with the same weights, most would compute something else and not fail.
UNTOLD: dict[str, Callable[[], nn.Module]] = {
    "timm, drop_path_rate": lambda: timm.create_model("regnety_002", drop_path_rate=0.1),
    "timm, global_pool": lambda: timm.create_model("resnet18", global_pool="max"),
    "timm, output_stride": lambda: timm.create_model("resnet18", output_stride=8),
    "torchvision, dilation": lambda: models.resnet50(replace_stride_with_dilation=[False, True, True]),
    "torchvision, transform_input": lambda: googlenet(aux_logits=False, transform_input=True),
    "torchvision, width": lambda: models.mobilenet_v2(width_mult=0.5),
    "another activation": lambda: with_gelu(models.resnet18()),
    "a layer less": lambda: cut(models.resnet18()),
    "a forward of its own": lambda: twice_the_logits(timm.create_model("resnet18")),
    "a hook": lambda: hooked(models.resnet18()),
    "a module shared": lambda: shared(models.resnet18()),
    "weights tied": lambda: tied(models.resnet18()),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_a_host_that_its_name_does_not_tell_is_never_rebuilt_by_name(case: str, tmp_path: Path) -> None:
    saccade.save(UNTOLD[case](), tmp_path / "model")
    assert described(tmp_path / "model")["host"] is None
    with pytest.raises(UsageError, match=r"does not name its host"):
        saccade.load(tmp_path / "model")


@pytest.mark.parametrize("case", ["a module shared", "weights tied"])
def test_what_is_shared_is_saved_once_and_comes_back_shared(case: str, tmp_path: Path) -> None:
    host = UNTOLD[case]()
    model = moved(saccade.augment(host, "se", at="layer2.*.bn2"))
    saccade.save(model, tmp_path / "model")
    loaded = saccade.load(tmp_path / "model", host=host)
    assert_same(loaded, model, IMAGE)
    assert loaded.layer1[1].conv1.weight is loaded.layer1[0].conv1.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_type_of_the_numbers_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model = moved(saccade.augment(models.resnet18(num_classes=3), "gam", at="layer4.*.bn2")).to(dtype)
    saccade.save(model, tmp_path / "model")
    assert_same(saccade.load(tmp_path / "model"), model, IMAGE.to(dtype))


def test_weights_that_lie_otherwise_in_memory_come_back_with_their_values(tmp_path: Path) -> None:
    model = moved(saccade.augment(models.resnet18(num_classes=3), "gam", at="layer4.*.bn2"))
    model.to(memory_format=torch.channels_last)
    model.fc.weight = nn.Parameter(model.fc.weight.detach().t().contiguous().t())
    assert not model.fc.weight.is_contiguous()
    assert not model.conv1.weight.is_contiguous()
    saccade.save(model, tmp_path / "model")
    loaded = saccade.load(tmp_path / "model")
    # In the same layout they compute the same; in another, convolutions add in another order.
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        ours.data = theirs.data.clone()
    assert torch.equal(loaded.eval()(IMAGE), model(IMAGE))


def test_a_wrapped_network_is_saved_as_the_one_inside(tmp_path: Path) -> None:
    model = moved(saccade.augment(models.resnet18(num_classes=3), "se"))
    saccade.save(nn.DataParallel(torch.compile(model, backend="eager")), tmp_path / "model")
    assert_same(saccade.load(tmp_path / "model"), model, IMAGE)


def test_a_network_whose_edit_something_removed_is_not_saved(tmp_path: Path) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(saccade.augment(models.resnet18(), "se"))
    with pytest.raises(UsageError, match="no longer run"):
        saccade.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [lambda: models.regnet_x_400mf(num_classes=4), models.resnet18], ids=["cpu", "meta"])
def test_saving_draws_no_random_number(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    before = torch.get_rng_state()
    saccade.save(model, tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)


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


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "saccade.model/2"},
        {"host": {}},
        {"host": "timm:resnet18"},
        {"host": [1]},
        {"host": RESNET | {"library": "os"}},
        {"host": RESNET | {"library": ["timm"]}},
        {"host": RESNET | {"name": 3}},
        {"host": RESNET | {"options": [1]}},
        {"host": RESNET | {"options": {"weights": "DEFAULT"}}},
        {"host": {"library": "timm", "name": "resnet18", "options": {"checkpoint_path": "weights.pth"}}},
        {"host": {"library": "timm", "name": "resnet18", "options": {"pretrained": True}}},
        {"host": {"library": "timm", "name": "hf-hub:someone/model", "options": {}}},
        {"plan": "abc"},
        {"plan": {"schema": "saccade.plan/2", "edits": []}},
        {"plan": {"schema": "saccade.plan/1", "edits": [{"site": "conv1"}]}},
    ],
    ids=str,
)
def test_a_description_of_another_form_is_an_error(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(saccade.SaccadeError):
        saccade.load(forge(tmp_path / "file", **changes))


def test_a_file_that_names_code_as_its_host_does_not_run_it(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\ndef host(): pass\n")
    for host in (
        {"library": "file", "name": f"{code}:host", "options": {}},
        {"library": "timm", "name": f"{code}:host", "options": {}},
        {"library": f"{code}", "name": "host", "options": {}},
    ):
        with pytest.raises(saccade.SaccadeError):
            saccade.load(forge(tmp_path / "file", host=host))
    assert not (tmp_path / "ran").exists()


def test_tensors_that_the_host_lacks_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the weights of .*file do not fit this host"):
        saccade.load(forge(tmp_path / "file"))


KILLED = """
import os, signal, sys, torch, safetensors.torch
from pathlib import Path
from saccade.nets import CifarResNet
import saccade
whole = safetensors.torch.save_model
def cut(model, filename, **options):
    whole(model, filename, **options)
    path = Path(filename)
    path.write_bytes(path.read_bytes()[:100])
    os.kill(os.getpid(), signal.SIGKILL)
safetensors.torch.save_model = cut
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
