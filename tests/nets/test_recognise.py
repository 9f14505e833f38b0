"""Hosts by name in files: one that a library builds needs no more; one that a name does not tell gets none."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import generalized_box_iou

import saccade
from attention.builders import maps
from nets.saved import IMAGE, assert_same, described, moved, shared, tied
from saccade.errors import UsageError
from saccade.nets import CifarResNet
from saccade.nets.recognise import recognise

GREY = maps(1, 1, 64, 64)


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


def twice_the_logits(host: nn.Module) -> nn.Module:
    host.forward = lambda x: 2 * type(host).forward(host, x)
    return host


def hooked(host: nn.Module) -> nn.Module:
    host.relu.register_forward_hook(lambda _module, _args, output: 2 * output)
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


def ssd(**options: Any) -> Any:
    return models.detection.ssd300_vgg16(weights=None, weights_backbone=None, **options)


def faster_rcnn(**options: Any) -> Any:
    make = models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    return make(weights=None, weights_backbone=None, **options)


def changed(host: Any, change: Callable[[Any], Any]) -> nn.Module:
    change(host)
    return host


def slicing() -> nn.Module:
    host: Any = timm.create_model("fasternet_t0")
    mixing = host.stages[0].blocks[0].spatial_mixing
    mixing.forward = mixing.forward_slicing
    return host


# What they differ in is a list, a dict, an object, a function, a tensor that no state holds.
UNTOLD_INSIDE: dict[str, Callable[[], nn.Module]] = {
    "a list": lambda: ssd(image_mean=[0] * 3),
    "a dict": lambda: faster_rcnn(rpn_pre_nms_top_n_test=7),
    "an object": lambda: changed(ssd(), lambda host: setattr(host.proposal_matcher, "high_threshold", 0.7)),
    "a list of tensors": lambda: changed(ssd(), lambda host: host.anchor_generator._wh_pairs[0].mul_(2)),
    "a buffer that is not saved": lambda: changed(timm.create_model("csatv2"), lambda host: host.stem_dct.mean.add_(1)),
    "a function": lambda: changed(
        faster_rcnn(), lambda host: setattr(host.roi_heads, "box_similarity", generalized_box_iou)
    ),
    "a method": slicing,
    "what cannot be compared": lambda: changed(
        ssd(), lambda host: setattr(host.transform, "image_mean", weakref.ref(host))
    ),
}


@pytest.mark.parametrize("case", UNTOLD_INSIDE)
def test_a_host_that_differs_inside_of_an_attribute_has_no_name(case: str) -> None:
    assert recognise(UNTOLD_INSIDE[case]()) is None


@pytest.mark.parametrize("make", [ssd, faster_rcnn, partial(timm.create_model, "csatv2")])
def test_lists_and_objects_of_equal_content_are_the_same(make: Callable[..., nn.Module]) -> None:
    named, narrow = recognise(make()), recognise(make(num_classes=3))
    assert named is not None
    assert narrow is not None
    assert (named.options, narrow.options["num_classes"]) == ({}, 3)


def test_a_detector_of_other_means_is_not_rebuilt_with_the_usual_ones(tmp_path: Path) -> None:
    host = ssd(image_mean=[0.0] * 3, image_std=[1.0] * 3)
    saccade.save(host, tmp_path / "model")
    with pytest.raises(UsageError, match="does not name its host"):
        saccade.load(tmp_path / "model")
    loaded: Any = saccade.load(tmp_path / "model", host=host)
    assert loaded.transform.image_mean == [0.0] * 3


@pytest.mark.parametrize("make", [lambda: models.regnet_x_400mf(num_classes=4), models.resnet18], ids=["cpu", "meta"])
def test_saving_draws_no_random_number(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    before = torch.get_rng_state()
    saccade.save(model, tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)
