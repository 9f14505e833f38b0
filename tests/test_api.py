"""The public functions that add attention and take it off: their arguments, their errors, and what they leave alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import saccade
from saccade.errors import UsageError
from surgery.hosts import OPTIONS, cifar, images

NAMES = [
    "AAConv2d",
    "SaccadeError",
    "augment",
    "create_attention",
    "describe",
    "list_attention",
    "nets",
    "ops",
    "plan_of",
]


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_listed_and_load_on_use(name: str) -> None:
    assert name in saccade.__all__
    assert name in dir(saccade)
    assert getattr(saccade, name) is not None


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'saccade' has no attribute 'augmnt'"):
        _ = saccade.augmnt


def test_errors_are_the_librarys_own_and_value_errors() -> None:
    with pytest.raises(saccade.SaccadeError, match="must be one of") as caught:
        saccade.create_attention("nothing", 8)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "semm"}, r"`attention` \(='semm'\) must be one of 'aaconv', .*did you mean 'sem'"),
        ({"options": {"reductoin": 4}}, r"se has no option 'reductoin'.*did you mean 'reduction'"),
        ({"options": {"reduction": 0}}, r"`reduction` \(=0\) must be an integer of at least 1"),
        ({"options": {"channels": 8}}, r"se has no option 'channels'"),
        ({"options": ["reduction"]}, r"`options` \(=\['reduction'\]\) must be a dict: the options of se by name"),
        ({"options": {"reduction": object()}}, r"`options` \(=.*\) must be values that JSON can hold"),
        ({"start": "zero"}, r"`start` \(='zero'\) must be one of 'paper', 'identity'"),
        ({"at": "*.bn9"}, r"`at` \(='\*.bn9'\) matches no module of CifarResNet"),
        ({"model": "resnet18"}, r"`model` \(='resnet18'\) must be an nn.Module"),
    ],
    ids=lambda value: ",".join(f"{k}" for k in value) if isinstance(value, dict) else "",
)
def test_an_impossible_call_says_what_is_wrong_and_changes_nothing(arguments: dict[str, Any], message: str) -> None:
    host = cifar()
    text, keys = str(host), list(host.state_dict())
    call = {"model": host, "attention": "se", "at": "*.bn2", "inplace": True} | arguments
    with pytest.raises(UsageError, match=message):
        saccade.augment(**call)
    assert str(host) == text
    assert list(host.state_dict()) == keys


@pytest.mark.parametrize("attention", OPTIONS)
def test_augment_leaves_the_hosts_object_alone_unless_told(attention: str) -> None:
    host = cifar()
    untouched = copy.deepcopy(host)
    model = saccade.augment(host, attention, at="layer3.*.conv1")
    assert model is not host
    assert str(host) == str(untouched)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in host.parameters()}
    assert saccade.augment(host, attention, at="layer3.*.conv1", inplace=True) is host
    assert len(saccade.plan_of(host)) == 1


@pytest.mark.parametrize("start", ["paper", "identity"])
@pytest.mark.parametrize("attention", OPTIONS)
def test_options_reach_every_site_and_the_plan(attention: str, start: str) -> None:
    options = {"upsilon": 0.5} if attention == "aaconv" else {"reduction": 2}
    given = copy.deepcopy(options)
    model = saccade.augment(cifar(), attention, at="*.conv2", options=options, start=start)
    plain = saccade.augment(cifar(), attention, at="*.conv2", start=start)
    assert options == given
    # A plan also holds the sizes that the sites settle, so that it builds the same again.
    assert [options | edit.options for edit in saccade.plan_of(model).edits] == [
        edit.options for edit in saccade.plan_of(model).edits
    ]
    assert {edit.start for edit in saccade.plan_of(model).edits} == {start}
    assert sum(p.numel() for p in model.parameters()) != sum(p.numel() for p in plain.parameters())


def test_a_paper_start_is_the_mechanism_itself_after_the_module() -> None:
    host = cifar()
    model = saccade.augment(host, "se", at="layer1.0.bn2", start="paper")
    gate = model.get_submodule("layer1.0.bn2.saccade.se.attention")
    x = torch.randn(2, 8, 5, 4)
    expected = gate(host.get_submodule("layer1.0.bn2")(x))
    assert torch.equal(model.get_submodule("layer1.0.bn2")(x), expected)


def test_the_default_start_is_identity() -> None:
    host = cifar()
    assert torch.equal(saccade.augment(host, "gam", at="*.bn2")(images()), host(images()))


def test_a_convolution_that_attention_replaced_keeps_the_first_filters() -> None:
    host = cifar()
    model = saccade.augment(host, "aaconv", at="layer3.0.conv1", start="paper")
    conv, old = model.get_submodule("layer3.0.conv1"), host.get_submodule("layer3.0.conv1")
    assert isinstance(conv, saccade.AAConv2d)
    assert torch.equal(conv.conv.weight, old.weight[: len(conv.conv.weight)])
    assert (conv.conv.stride, conv.conv.padding) == (old.stride, old.padding)


def test_strip_works_on_a_copy_unless_told() -> None:
    model = saccade.augment(cifar(), "se", at="*.bn2")
    stripped = saccade.strip(model)
    assert stripped is not model
    assert len(saccade.plan_of(model)) == 3
    assert saccade.strip(model, inplace=True) is model
    assert len(saccade.plan_of(model)) == 0


def test_any_module_can_be_a_host() -> None:
    """Of the user's own, without a config, a parameter or a batch norm."""
    host = nn.Sequential(nn.MaxPool2d(2), nn.ReLU())
    model = saccade.augment(host, "se", at="0", options={"reduction": 1}, start="paper", example_input=images())
    assert model[0].saccade["se"].attention.channels == 3
    assert model(images()).shape == (2, 3, 20, 16)
