"""What cannot be augmented, and arguments that are wrong: one clear sentence, and the network as it was."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import saccade
from saccade.errors import UsageError
from saccade.nets import CifarResNet
from surgery.hosts import augmented, cifar, images


def _nothing(site: Any) -> bool:
    return False


def se(model: Any, **options: Any) -> nn.Module:
    return saccade.augment(model, "se", **({"at": "*.bn2", "example_input": images()} | options))


def test_a_vision_transformer_has_no_site_and_says_why() -> None:
    with torch.device("meta"):
        host = timm.create_model("vit_tiny_patch16_224")
    message = (
        r"VisionTransformer has no convolutional site: its one convolution \('patch_embed.proj'\) cuts the image into"
    )
    for at in ("residual", "conv", "norm", lambda site: site.channels > 3):
        with pytest.raises(UsageError, match=message):
            saccade.augment(host, "se", at=at)
    with pytest.raises(
        UsageError, match=r"'blocks.0.mlp.fc2' does not give a map of shape \(B, C, H, W\) but \(1, 197, 192"
    ):
        saccade.augment(host, "se", at="blocks.0.mlp.fc2")
    assert "has no convolutional site" in str(saccade.find_sites(host))


@pytest.mark.parametrize(
    ("layer", "norm", "size", "name"),
    [(nn.Conv1d, nn.BatchNorm1d, (2, 3, 64), "Conv1d"), (nn.Conv3d, nn.BatchNorm3d, (2, 3, 8, 8, 8), "Conv3d")],
)
def test_convolutions_of_one_or_three_dimensions_are_named(layer: type, norm: type, size: tuple, name: str) -> None:
    host = nn.Sequential(layer(3, 8, 3, padding=1), norm(8), nn.ReLU(), layer(8, 8, 3, padding=1))
    message = rf"Sequential has no site: attention goes to maps of 2-D convolutions \(B, C, H, W\), .* are {name}"
    with pytest.raises(UsageError, match=message):
        saccade.augment(host, "se", example_input=torch.zeros(size))
    with pytest.raises(UsageError, match=r"'0' does not give a map of shape \(B, C, H, W\)"):
        saccade.augment(host, "se", at="0", example_input=torch.zeros(size))


def test_a_network_without_convolutions_says_so() -> None:
    with pytest.raises(UsageError, match=r"Sequential has no site: attention goes to maps of 2-D .* and it has none"):
        saccade.augment(nn.Sequential(nn.Linear(4, 4)), "se", example_input=torch.zeros(1, 4))


def scripted(how: str, module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both are deprecated
        example = torch.zeros(1, 3, 16, 16)
        return torch.jit.script(module) if how == "script" else torch.jit.trace(module, example)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_takes_no_edits(how: str) -> None:
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    message = r"`model` is a \w+: TorchScript code takes no edits. Give the nn.Module that it was made from"
    for use in (se, saccade.find_sites):
        with pytest.raises(UsageError, match=message):
            use(scripted(how, conv))
    inside = nn.Sequential(scripted(how, conv), nn.BatchNorm2d(4))
    with pytest.raises(UsageError, match=r"`model` has at '0' a ScriptModule: TorchScript code takes no edits; script"):
        saccade.augment(inside, "se", at="1", example_input=images())


def test_a_module_that_is_not_initialised_says_how_to() -> None:
    host = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    with pytest.raises(
        UsageError, match=r"`model` has at '0' a LazyConv2d without weights yet; run `model\(example\)` once"
    ):
        saccade.augment(host, "se", at="0", example_input=images())
    host(images())
    host.eval()
    assert torch.equal(saccade.augment(host, "se", at="0", example_input=images())(images()), host(images()))


@pytest.mark.parametrize("example", ["cpu", "meta"])
@pytest.mark.parametrize("host", ["cpu", "meta"])
def test_the_example_may_be_on_another_device_than_the_host(host: str, example: str) -> None:
    with torch.device(host):
        model = CifarResNet(8, widths=(8, 16, 32))
    new = se(model, example_input=torch.zeros(1, 3, 32, 32, device=example))
    assert {parameter.device.type for parameter in new.parameters()} == {host}
    assert len(saccade.plan_of(new)) == 3


@pytest.mark.parametrize(
    ("example", "shown"),
    [
        (torch.zeros(1, 4, 32, 32), r"shape \(1, 4, 32, 32\)"),
        (torch.zeros(3), r"shape \(3,\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.long), r"shape \(1, 3, 32, 32\)"),
        ((torch.zeros(1, 3, 32, 32), torch.zeros(1)), r"shape \(1, 3, 32, 32\), shape \(1,\)"),
        ([torch.zeros(3, 32, 32)], "type list"),
        ("image.png", "type str"),
        ({"x": torch.zeros(1, 3, 32, 32)}, "type dict"),
    ],
    ids=["channels", "one axis", "integers", "two", "list", "text", "dict"],
)
def test_an_example_that_does_not_fit_is_named(example: Any, shown: str) -> None:
    host = cifar()
    with pytest.raises(
        UsageError, match=rf"(?s)CifarResNet cannot be run on an example of {shown}: \w+: .*`example_input`"
    ):
        se(host, example_input=example, inplace=True)
    assert len(saccade.plan_of(host)) == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.modules())


@pytest.mark.parametrize("model", [None, "resnet18", {}, nn.Module, len], ids=str)
def test_what_is_no_module_is_an_error(model: Any) -> None:
    for use in (se, saccade.find_sites, lambda model: saccade.apply_plan(model, saccade.plan_of(cifar()))):
        with pytest.raises(UsageError, match=r"`model` \(=.*\) must be an nn.Module"):
            use(model)


@pytest.mark.parametrize("model", [None, "resnet18", len], ids=str)
@pytest.mark.parametrize(
    "use",
    [
        saccade.plan_of,
        saccade.strip,
        saccade.attention_parameters,
        saccade.host_parameters,
        lambda model: saccade.load_host(model, {}),
        lambda model: saccade.save(model, "never"),
    ],
    ids=["plan_of", "strip", "attention_parameters", "host_parameters", "load_host", "save"],
)
def test_what_is_no_module_has_no_plan_either(use: Any, model: Any) -> None:
    with pytest.raises(UsageError, match=r"`model` \(=.*\) must be an nn.Module"):
        use(model)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"at": 3}, r"`at` \(=3\) must be a kind of site \(residual, conv, .*, input\), a module's path, a glob"),
        ({"at": None}, r"`at` \(=None\) must be a kind of site"),
        ({"at": []}, r"`at` \(=\[\]\) must name at least one place"),
        ({"at": ["bn1", 3]}, r"`at` \(=\['bn1', 3\]\) must be a kind of site"),
        ({"at": ""}, r"`at` \(=''\) matches no module of CifarResNet"),
        ({"at": "bn9"}, r"`at` \(='bn9'\) matches no module of CifarResNet \(did you mean .*'bn1'"),
        ({"at": "residuals"}, r"`at` \(='residuals'\) matches no module of CifarResNet \(did you mean .*'residual'"),
        ({"at": "depthwise"}, r"`at` \(='depthwise'\) matches no site of CifarResNet. It has 3 residual"),
        ({"at": _nothing}, r"`at` .* matches no site of CifarResNet. It has 3 residual"),
        ({"at": "fc"}, r"'fc' does not give a map of shape \(B, C, H, W\) but \(2, 10\)"),
        ({"stages": 3}, r"`stages` \(=3\) must be 'deepest:N', N the number of resolutions, such as 'deepest:3'"),
        ({"stages": "deepest:0"}, r"`stages` \(='deepest:0'\) must be 'deepest:N'"),
        ({"stages": "deepest:-1"}, r"`stages` \(='deepest:-1'\) must be 'deepest:N'"),
        ({"stages": "last"}, r"`stages` \(='last'\) must be 'deepest:N'"),
        ({"max_positions": 0}, r"`max_positions` \(=0\) must be an integer of at least 1"),
        ({"max_positions": 2.5}, r"`max_positions` \(=2.5\) must be an integer"),
        ({"max_positions": "1024"}, r"`max_positions` \(='1024'\) must be an integer"),
        ({"max_positions": True}, r"`max_positions` \(=True\) must be an integer"),
        (
            {"max_positions": 10},
            r"`max_positions` \(=10\) leaves no site: the smallest map, 10 x 8 .*max_positions=80 or more",
        ),
        ({"start": "zero"}, r"`start` \(='zero'\) must be one of 'paper', 'identity'"),
        ({"start": None}, r"`start` \(=None\) must be one of"),
        ({"start": ["paper"]}, r"`start` \(=\['paper'\]\) must be one of"),
        ({"options": {"reductions": 4}}, r"has no option 'reductions' \(did you mean 'reduction'"),
        ({"options": {"reduction": 0}}, r"`reduction` \(=0\) must be an integer of at least 1"),
        ({"options": [4]}, r"`options` \(=\[4\]\) must be"),
        ({"options": {4: 4}}, r"has no option 4"),
        ({"attention": "sse"}, r"`attention` \(='sse'\) must be one of .*did you mean .*'se'"),
        ({"attention": 3}, r"`attention` \(=3\) must be one of"),
        ({"attention": None}, r"`attention` must be a mechanism; saccade.list_attention\(\) names 29"),
        ({"attention": ["se", "gam"]}, r"`attention` \(=\['se', 'gam'\]\) must be one of"),
        ({"attention": None, "at": {}}, r"`at` \(=\{\}\) must name at least one place"),
        ({"at": {"residual": "se"}}, r"`at` as a mapping names mechanisms .* leave out `attention` and `options`"),
        ({"attention": None, "at": {"residual": "se("}}, r"`at` .*'se\('"),
        ({"attention": None, "at": {"residual": 3}}, r"`at` .*3"),
        (
            {"attention": "aaconv", "at": "residual"},
            r"'aaconv' takes a convolution's place, and at='residual' names no such",
        ),
        (
            {"attention": "iebn", "at": "block"},
            r"'iebn' takes a BatchNorm's place, and at='block' names no such places; sacc",
        ),
        (
            {"attention": "iebn", "at": "conv1"},
            r"'iebn' takes the place of a plain nn.BatchNorm2d, and 'conv1' is a Conv2d",
        ),
        (
            {"attention": "aaconv", "at": "*.bn2"},
            r"'aaconv' takes a convolution's place, and 'layer1.0.bn2' is a Batch",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else re.sub(r" at 0x\w+", "", str(value)),
)
def test_a_wrong_argument_is_named_with_what_is_right(given: dict[str, Any], message: str) -> None:
    host = cifar()
    text = str(host)
    arguments = {"attention": "se", "at": "residual", "example_input": images()} | given
    with pytest.raises(UsageError, match=message):
        saccade.augment(host, **arguments, inplace=True)
    assert str(host) == text


def test_an_augmented_network_is_augmented_further_but_not_with_the_same_again() -> None:
    once = augmented(cifar(), "se")
    both = saccade.augment(once, "gam", at="*.bn2", example_input=images())
    assert [edit.attention for edit in saccade.plan_of(both).edits] == ["se", "gam"] * 3
    with pytest.raises(
        UsageError, match=r"'layer1.0.bn2' carries 'se' already; .*; force=True adds another|carries 'se'"
    ):
        se(once)
    assert len(saccade.plan_of(se(once, force=True))) == 6


class NotCalled(nn.Module):
    """A module that forward leaves out, and one that is called with maps of two widths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.unused = nn.Conv2d(8, 8, 3)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.act(x)))


def test_a_module_that_the_host_does_not_call_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"'unused' was not called when the host ran, so an edit there would do nothing"
    ):
        saccade.augment(NotCalled(), "se", at="unused", example_input=images())


def test_a_module_called_with_maps_of_two_widths_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"'act' is called 2 times and gives maps of 3 and 8 channels; an edit serves one"
    ):
        saccade.augment(NotCalled(), "se", at="act", example_input=images())
