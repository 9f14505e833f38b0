"""Weights of a library, for another number of classes: random ones, loaded from where the library keeps its own."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from nets.kept import kept
from saccade.errors import UsageError
from saccade.nets.build import build_model, pretrained_statistics
from saccade.nets.hosts import Host, _with_classes

IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), ("squeezenet1_1", "classifier.1")])
def test_torchvisions_weights_come_with_a_head_of_the_users_classes(name, head, tmp_path, monkeypatch):
    weights = kept(name, tmp_path, monkeypatch)
    model = build_model(f"torchvision:{name}", in_channels=3, num_classes=7, pretrained=True)
    state = model.state_dict()
    assert {key for key in weights if state[key].shape != weights[key].shape} == {f"{head}.weight", f"{head}.bias"}
    assert all(torch.equal(state[key], weights[key]) for key in weights if not key.startswith(head))
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    mean, deviation = pretrained_statistics(f"torchvision:{name}", model) or pytest.fail("torchvision says it")
    assert (mean, deviation) == (pytest.approx(IMAGENET[0]), pytest.approx(IMAGENET[1]))


def test_all_classes_of_the_weights_are_kept_where_as_many_are_asked_for(tmp_path, monkeypatch):
    weights = kept("resnet18", tmp_path, monkeypatch)
    model = build_model("torchvision:resnet18", in_channels=3, num_classes=1000, pretrained=True)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_network_without_a_head_of_classes_is_told():
    with pytest.raises(UsageError, match=r"`model` \(='torchvision:odd'\): no layer of it gives 1000 classes"):
        _with_classes(Host("torchvision", "odd"), nn.Conv2d(3, 10, 1), 1000, 7)


def test_timms_weights_say_how_their_images_were_normalised(tmp_path):
    state = timm.create_model("resnetv2_50x1_bit", num_classes=10).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 10}
    name = f"resnetv2_50x1_bit(pretrained_cfg_overlay={overlay!r})"
    model = build_model(name, in_channels=3, num_classes=2, pretrained=True)
    assert torch.equal(model.state_dict()["stem.conv.weight"], state["stem.conv.weight"])
    assert pretrained_statistics(name, model) == ([127.5] * 3, [127.5] * 3)


def test_a_network_that_does_not_say_leaves_it_to_the_images():
    assert pretrained_statistics("saccade:cifar_resnet", nn.Linear(2, 2)) is None
