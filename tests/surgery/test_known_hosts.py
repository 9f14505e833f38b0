"""Sites of named hosts of timm and torchvision, written out as their sources have them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import saccade
from surgery.hosts import HOSTS, augmented


@dataclass(frozen=True)
class Known:
    """What a host has; paths with spaces between. A kind that is not in ``counts`` has no site."""

    counts: dict[str, int]
    residual: str
    stage: str
    layout: str = "nchw"
    conv: str | None = None
    """Written out where they are few."""
    example: Any = None


KNOWN = {
    "timm:resnet18": Known(
        {"conv": 17, "pointwise": 3, "norm": 20, "block": 8},
        residual="layer1.0.bn2 layer1.1.bn2 layer2.0.bn2 layer2.1.bn2 "
        "layer3.0.bn2 layer3.1.bn2 layer4.0.bn2 layer4.1.bn2",
        stage="act1 layer1.1 layer2.1 layer3.1 layer4.1",
    ),
    # Residual where a block keeps size and width; blocks.0.0 has no expansion, blocks.5.0 is one convolution.
    "timm:mobilenetv3_small_100": Known(
        {"conv": 1, "depthwise": 11, "pointwise": 22, "norm": 34, "block": 11},
        residual="blocks.1.1.bn3 blocks.2.1.bn3 blocks.2.2.bn3 blocks.3.1.bn3 blocks.4.1.bn3 blocks.4.2.bn3",
        stage="bn1 blocks.0.0 blocks.1.1 blocks.3.1 blocks.4.2",
        conv="conv_stem",
    ),
    # Its multilayer perceptrons are 1 x 1 convolutions; a layer scale comes after each.
    "timm:convnext_atto": Known(
        {"conv": 4, "depthwise": 12, "pointwise": 24, "norm": 16, "block": 12},
        residual="stages.0.blocks.0.mlp.fc2 stages.0.blocks.1.mlp.fc2 "
        "stages.1.blocks.0.mlp.fc2 stages.1.blocks.1.mlp.fc2 "
        "stages.2.blocks.0.mlp.fc2 stages.2.blocks.1.mlp.fc2 stages.2.blocks.2.mlp.fc2 "
        "stages.2.blocks.3.mlp.fc2 stages.2.blocks.4.mlp.fc2 stages.2.blocks.5.mlp.fc2 "
        "stages.3.blocks.0.mlp.fc2 stages.3.blocks.1.mlp.fc2",
        stage="stages.0 stages.1 stages.2 stages.3",
        conv="stem.0 stages.1.downsample.1 stages.2.downsample.1 stages.3.downsample.1",
    ),
    # Its 3 x 3 convolutions have groups of 8 channels: neither `conv` nor `depthwise`.
    "timm:regnety_002": Known(
        {"conv": 1, "pointwise": 30, "norm": 44, "block": 13},
        residual="s1.b1.conv3.bn s2.b1.conv3.bn s3.b1.conv3.bn s3.b2.conv3.bn s3.b3.conv3.bn s3.b4.conv3.bn "
        "s4.b1.conv3.bn s4.b2.conv3.bn s4.b3.conv3.bn s4.b4.conv3.bn s4.b5.conv3.bn s4.b6.conv3.bn s4.b7.conv3.bn",
        stage="stem s1.b1 s2.b1 s3.b4 s4.b7",
        conv="stem.conv",
    ),
    # Sums with the first channels alone, wherever the stride is 1, but for features.0, which narrows the map.
    "timm:rexnet_100": Known(
        {"conv": 1, "depthwise": 16, "pointwise": 32, "norm": 49, "block": 16},
        residual="features.2.conv_pwl.bn features.4.conv_pwl.bn features.6.conv_pwl.bn features.7.conv_pwl.bn "
        "features.8.conv_pwl.bn features.9.conv_pwl.bn features.10.conv_pwl.bn features.12.conv_pwl.bn "
        "features.13.conv_pwl.bn features.14.conv_pwl.bn features.15.conv_pwl.bn",
        stage="features.0 features.2 features.4 features.10 features.15",
        conv="stem.conv",
    ),
    # No normalisation; the branch is multiplied by a gain and by alpha before the sum.
    "timm:nf_resnet26": Known(
        {"conv": 9, "pointwise": 20, "block": 8},
        residual="stages.0.0.conv3 stages.0.1.conv3 stages.1.0.conv3 stages.1.1.conv3 "
        "stages.2.0.conv3 stages.2.1.conv3 stages.3.0.conv3 stages.3.1.conv3",
        stage="stem.conv stages.0.1 stages.1.1 stages.2.1 stages.3.1",
        conv="stem.conv stages.0.0.conv2 stages.0.1.conv2 stages.1.0.conv2 stages.1.1.conv2 "
        "stages.2.0.conv2 stages.2.1.conv2 stages.3.0.conv2 stages.3.1.conv2",
    ),
    "timm:densenet121": Known(
        {"conv": 59, "pointwise": 61, "norm": 121},
        residual="",
        # A dense block joins the maps of all its children itself.
        stage="features.norm0 features.transition1.conv features.transition2.conv features.transition3.conv "
        "features.norm5",
    ),
    # Where size or width change, the shortcut is a separable convolution.
    "timm:ghostnet_100": Known(
        {"conv": 1, "depthwise": 41, "pointwise": 38, "norm": 80, "block": 16},
        residual="blocks.0.0.ghost2 blocks.1.0.ghost2 blocks.2.0.ghost2 blocks.3.0.ghost2 blocks.4.0.ghost2 "
        "blocks.5.0.ghost2 blocks.6.0.ghost2 blocks.6.1.ghost2 blocks.6.2.ghost2 blocks.6.3.ghost2 blocks.6.4.ghost2 "
        "blocks.7.0.ghost2 blocks.8.0.ghost2 blocks.8.1.ghost2 blocks.8.2.ghost2 blocks.8.3.ghost2",
        stage="blocks.0.0 blocks.2.0 blocks.4.0 blocks.6.4 blocks.8.3",
        conv="conv_stem",
    ),
    "torchvision:resnet50": Known(
        {"conv": 17, "pointwise": 36, "norm": 53, "block": 16},
        residual="layer1.0.bn3 layer1.1.bn3 layer1.2.bn3 layer2.0.bn3 layer2.1.bn3 layer2.2.bn3 layer2.3.bn3 "
        "layer3.0.bn3 layer3.1.bn3 layer3.2.bn3 layer3.3.bn3 layer3.4.bn3 layer3.5.bn3 "
        "layer4.0.bn3 layer4.1.bn3 layer4.2.bn3",
        stage="relu layer1.2 layer2.3 layer3.5 layer4.2",
    ),
    # block.3 is an nn.Sequential of a convolution and its norm; the norm is the site.
    "torchvision:efficientnet_b0": Known(
        {"conv": 1, "depthwise": 16, "pointwise": 32, "norm": 49, "block": 16},
        residual="features.2.1.block.3.1 features.3.1.block.3.1 features.4.1.block.3.1 features.4.2.block.3.1 "
        "features.5.1.block.3.1 features.5.2.block.3.1 features.6.1.block.3.1 features.6.2.block.3.1 "
        "features.6.3.block.3.1",
        stage="features.1.0 features.2.1 features.3.1 features.5.2 features.7.0",
        conv="features.0.0",
    ),
    "torchvision:vgg11_bn": Known(
        {"conv": 8, "norm": 8},
        residual="",
        stage="features.2 features.6 features.13 features.20 features.27 avgpool",
        conv="features.0 features.4 features.8 features.11 features.15 features.18 features.22 features.25",
    ),
    # Its head adds the scores of two resolutions: no residual sum.
    "torchvision:lraspp_mobilenet_v3_large": Known(
        {"conv": 1, "depthwise": 15, "pointwise": 33, "norm": 47, "block": 15},
        residual="backbone.1.block.1.1 backbone.3.block.2.1 backbone.5.block.3.1 backbone.6.block.3.1 "
        "backbone.8.block.2.1 backbone.9.block.2.1 backbone.10.block.2.1 backbone.12.block.3.1 "
        "backbone.14.block.3.1 backbone.15.block.3.1",
        stage="backbone.1 backbone.3 backbone.6 backbone.15",
        conv="backbone.0.0",
    ),
    # Dilated: layer2 to layer4 have one resolution. Its head is no block.
    "torchvision:fcn_resnet50": Known(
        {"conv": 18, "pointwise": 37, "norm": 54, "block": 16},
        residual="backbone.layer1.0.bn3 backbone.layer1.1.bn3 backbone.layer1.2.bn3 "
        "backbone.layer2.0.bn3 backbone.layer2.1.bn3 backbone.layer2.2.bn3 backbone.layer2.3.bn3 "
        "backbone.layer3.0.bn3 backbone.layer3.1.bn3 backbone.layer3.2.bn3 "
        "backbone.layer3.3.bn3 backbone.layer3.4.bn3 backbone.layer3.5.bn3 "
        "backbone.layer4.0.bn3 backbone.layer4.1.bn3 backbone.layer4.2.bn3",
        stage="backbone.relu backbone.layer1.2 backbone.layer4.2",
    ),
    # Runs only on real numbers: how many boxes there are depends on them. The pyramid's sum is no residual one.
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn": Known(
        {"conv": 4, "depthwise": 15, "pointwise": 34, "norm": 46, "block": 15},
        residual="backbone.body.1.block.1.1 backbone.body.3.block.2.1 backbone.body.5.block.3.1 "
        "backbone.body.6.block.3.1 backbone.body.8.block.2.1 backbone.body.9.block.2.1 backbone.body.10.block.2.1 "
        "backbone.body.12.block.3.1 backbone.body.14.block.3.1 backbone.body.15.block.3.1",
        stage="backbone.body.1 backbone.body.3 backbone.body.6 backbone.body.12 backbone.body.15",
        conv="backbone.body.0.0 backbone.fpn.layer_blocks.0.0 backbone.fpn.layer_blocks.1.0 rpn.head.conv.0.0",
        example=[torch.zeros(3, 96, 128)],
    ),
    # block.6 is the permutation back to (B, C, H, W); the layer scale comes after it.
    "torchvision:convnext_tiny": Known(
        {"conv": 4, "depthwise": 18, "norm": 22, "block": 18},
        residual="features.1.0.block.6 features.1.1.block.6 features.1.2.block.6 "
        "features.3.0.block.6 features.3.1.block.6 features.3.2.block.6 "
        "features.5.0.block.6 features.5.1.block.6 features.5.2.block.6 features.5.3.block.6 features.5.4.block.6 "
        "features.5.5.block.6 features.5.6.block.6 features.5.7.block.6 features.5.8.block.6 "
        "features.7.0.block.6 features.7.1.block.6 features.7.2.block.6",
        stage="features.1.2 features.3.2 features.5.8 features.7.2",
        conv="features.0.0 features.2.1 features.4.1 features.6.1",
    ),
    # Its blocks work on (B, H, W, C) and end in a linear layer each. Its stem has two convolutions: a block, too.
    "timm:mambaout_femto": Known(
        {"conv": 5, "depthwise": 18, "norm": 23, "block": 19},
        residual="stages.0.blocks.0.fc2 stages.0.blocks.1.fc2 stages.0.blocks.2.fc2 "
        "stages.1.blocks.0.fc2 stages.1.blocks.1.fc2 stages.1.blocks.2.fc2 "
        "stages.2.blocks.0.fc2 stages.2.blocks.1.fc2 stages.2.blocks.2.fc2 stages.2.blocks.3.fc2 "
        "stages.2.blocks.4.fc2 stages.2.blocks.5.fc2 stages.2.blocks.6.fc2 stages.2.blocks.7.fc2 "
        "stages.2.blocks.8.fc2 stages.3.blocks.0.fc2 stages.3.blocks.1.fc2 stages.3.blocks.2.fc2",
        stage="stem.act stages.0 stages.1 stages.2 stages.3",
        layout="nhwc",
    ),
}


def made(name: str) -> nn.Module:
    """A host without weights where that will do, else with random ones."""
    library, _, name = name.partition(":")
    if library == "timm":
        with torch.device("meta"):
            return timm.create_model(name)
    builder = torchvision.models.get_model_builder(name)
    backbone = {"weights_backbone": None} if "weights_backbone" in inspect.signature(builder).parameters else {}
    return builder(weights=None, **backbone)


@pytest.mark.parametrize("name", KNOWN)
def test_the_sites_of_a_known_host(name: str) -> None:
    known = KNOWN[name]
    sites = saccade.find_sites(made(name), known.example)
    found = {kind: [site.path for site in sites if site.kind == kind] for kind in sites.counts()}
    assert found.get("residual", []) == known.residual.split()
    assert found["stage"] == known.stage.split()
    assert known.conv is None or found["conv"] == known.conv.split()
    counts = {kind: count for kind, count in sites.counts().items() if kind not in ("residual", "stage", "input")}
    assert counts == known.counts
    assert len(found["input"]) == 1
    assert {site.layout for site in sites if site.kind == "residual"} <= {known.layout}
    assert len(sites.notes) == 1, "every residual addition has its site"


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:convnext_tiny", "timm:mambaout_femto"])
def test_stages_go_down(name: str) -> None:
    sites = [site for site in saccade.find_sites(made(name)) if site.kind == "stage"]
    sizes = [site.positions for site in sites]
    assert sizes == sorted(set(sizes), reverse=True)
    assert [site.stride for site in sites] == [224 // site.height for site in sites]


@pytest.mark.parametrize("name", HOSTS)
def test_an_augmented_host_has_the_sites_of_the_host(name: str) -> None:
    host, x = HOSTS[name](), torch.zeros(1, 3, 40, 32)
    expected = saccade.find_sites(host, x)
    model = augmented(augmented(host, "aaconv", start="paper"), "se")
    assert len(saccade.plan_of(model)) > 3
    sites = saccade.find_sites(model, x)
    assert sites == expected
    assert sites.notes == expected.notes
    assert saccade.find_sites(saccade.augment(model, "gam", at="block", example_input=x), x) == expected
