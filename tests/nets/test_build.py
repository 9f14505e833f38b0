"""From a model's name to the network."""

import pytest
import torch

from saccade.errors import UsageError
from saccade.nets import CifarResNet, build_model


def test_options_reach_the_network():
    model = build_model(
        "saccade:cifar_resnet(depth=11, block='bottleneck', widths=(4, 8, 16))", in_channels=1, num_classes=7
    )
    assert isinstance(model, CifarResNet)
    assert model.fc.out_features == 7
    assert model.conv1.in_channels == 1
    assert model.layer3[0].bn3.num_features == 64


def test_without_options_it_has_the_defaults():
    model = build_model("saccade:cifar_resnet", in_channels=3, num_classes=10)
    assert len(model.layer1) == 3


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_other_libraries_networks_have_the_classes_of_the_images(name):
    model = build_model(name, in_channels=3, num_classes=7).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_a_network_of_timm_takes_other_channels_and_one_of_torchvision_does_not():
    assert build_model("timm:test_resnet", in_channels=1, num_classes=7)(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    with pytest.raises(UsageError, match="takes images of 3 channels; these have 1"):
        build_model("torchvision:resnet18", in_channels=1, num_classes=7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "resnet81"),
        ("torchvision:resnet81", "resnet81"),
        ("timm:test_resnet(num_classes=10)", "must not give num_classes: they follow from the images"),
        ("saccade:", r"`model` \(='saccade:'\) must be a timm name \(resnet18\), torchvision:NAME, saccade:NAME or"),
        ("saccade:cifar_resnett", r"is no network of ours \(did you mean 'cifar_resnet'"),
        ("saccade:cifar_resnet(width=3)", r"has no option 'width' \(did you mean 'widths'\?\)"),
        ("saccade:cifar_resnet(depth=10)", r"`depth` \(=10\) must be 6n \+ 2 with basic blocks; depth=8 is nearest"),
        ("saccade:cifar_resnet(widths=(1, 2))", "must be three integers"),
        ("saccade:cifar_resnet(widths=16)", "must be three integers"),
        ("saccade:cifar_resnet(num_classes=10)", "must not give num_classes: they follow from the images"),
        ("saccade:cifar_resnet(in_channels=3)", "must not give in_channels: they follow from the images"),
    ],
)
def test_mistakes_are_named(name, message):
    with pytest.raises(UsageError, match=message):
        build_model(name, in_channels=3, num_classes=10)
