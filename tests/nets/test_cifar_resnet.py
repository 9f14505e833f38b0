"""ResNets for small images: the papers' parameter counts, with and without attention, and their shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import saccade
from saccade.errors import UsageError
from saccade.nets import BasicBlock, Bottleneck, CifarResNet


def millions(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


# Parameters in millions of the switchable-excitation paper's networks: (depth, classes) -> host, with se, with sem.
COUNTS = {
    (83, 10): (0.8695, 0.9706, 0.9909),
    (83, 100): (0.8927, 0.9937, 1.0141),
    (164, 10): (1.7042, 1.9063, 1.9470),
    (164, 100): (1.7273, 1.9294, 1.9701),
}


@pytest.mark.parametrize(("depth", "classes"), COUNTS, ids=lambda value: str(value))
def test_has_the_papers_number_of_parameters_with_and_without_attention(depth: int, classes: int) -> None:
    with torch.device("meta"):
        host = CifarResNet(depth, block="bottleneck", num_classes=classes)
    options = {"se": {"bias": True}, "sem": {}}
    models = [host, *(saccade.augment(host, name, at="*.bn3", options=o, start="paper") for name, o in options.items())]
    assert [millions(model) for model in models] == [pytest.approx(n, abs=5e-5) for n in COUNTS[depth, classes]]
    assert len(saccade.plan_of(models[1])) == (depth - 2) // 3


@pytest.mark.parametrize(("depth", "count"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7")])
def test_basic_networks_have_the_original_papers_size(depth: int, count: str) -> None:
    with torch.device("meta"):
        model = CifarResNet(depth)
    # The paper pads shortcuts with zeros; ours project, by two 1 x 1 convolutions with their norms.
    projections = sum(c * 2 * c + 2 * 2 * c for c in (16, 32)) / 1e6
    digits = len(count.partition(".")[2])
    assert f"{millions(model) - projections:.{digits}f}" == count


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("size", [(32, 32), (33, 27), (8, 8), (1, 1)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_takes_images_of_any_size(block: str, size: tuple[int, int]) -> None:
    model = CifarResNet(8 if block == "basic" else 11, block=block, widths=(4, 8, 12), num_classes=7).eval()
    out = model(torch.randn(2, 3, *size))
    assert out.shape == (2, 7)
    assert out.isfinite().all()


@pytest.mark.parametrize(("stem_stride", "sides"), [(1, [32, 32, 16, 8]), (2, [16, 16, 8, 4])])
def test_strides_are_on_the_first_block_of_the_later_stages(stem_stride: int, sides: list[int]) -> None:
    model = CifarResNet(14, widths=(4, 8, 12), stem_stride=stem_stride).eval()
    x = model.relu(model.bn1(model.conv1(torch.randn(1, 3, 32, 32))))
    seen = [tuple(x.shape)]
    for stage in (model.layer1, model.layer2, model.layer3):
        x = stage(x)
        seen.append(tuple(x.shape))
    assert seen == [(1, channels, side, side) for channels, side in zip((4, 4, 8, 12), sides, strict=True)]


def test_a_bottlenecks_stride_is_on_its_3x3_and_its_output_is_four_times_wider() -> None:
    block = Bottleneck(8, 4, stride=2)
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))
    assert block.eval()(torch.randn(1, 8, 9, 6)).shape == (1, 16, 5, 3)


def test_a_block_is_its_branch_plus_its_shortcut() -> None:
    x = torch.randn(2, 8, 5, 4)
    block = BasicBlock(8, 8, stride=1).eval()
    assert isinstance(block.downsample, nn.Identity)
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), torch.relu(branch + x))


@pytest.mark.parametrize("in_channels", [1, 4])
def test_takes_images_of_other_channels(in_channels: int) -> None:
    model = CifarResNet(8, widths=(4, 8, 12), in_channels=in_channels).eval()
    assert model(torch.randn(1, in_channels, 16, 16)).shape == (1, 10)
    # The size that surgery looks at when no example is given.
    assert model.pretrained_cfg["input_size"] == (in_channels, 32, 32)
    assert len(saccade.plan_of(saccade.augment(model, "se", at="*.bn2"))) == 3


def test_the_same_seed_builds_the_same_network() -> None:
    def built() -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        return CifarResNet(8, widths=(4, 8, 12)).state_dict()

    first, second = built(), built()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_convolutions_start_with_the_variance_that_keeps_the_signals_scale() -> None:
    weight = CifarResNet(8, widths=(64, 64, 64)).layer1[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 19}, r"`depth` \(=19\) must be 6n \+ 2 with basic blocks; depth=20 is nearest"),
        ({"depth": 2}, r"`depth` \(=2\) must be 6n \+ 2 with basic blocks; depth=8 is nearest"),
        ({"depth": 160, "block": "bottleneck"}, r"must be 9n \+ 2 with bottleneck blocks; depth=164 is nearest"),
        ({"depth": 20.0}, r"`depth` \(=20.0\) must be an integer of at least 1"),
        ({"block": "botleneck"}, r"`block` \(='botleneck'\) must be one of .*did you mean 'bottleneck'"),
        ({"widths": (16, 32)}, r"`widths` \(=\(16, 32\)\) must be three integers, one per stage"),
        ({"widths": (16, 0, 64)}, r"`widths` \(=0\) must be an integer of at least 1"),
        ({"stem_stride": 0}, r"`stem_stride` \(=0\) must be an integer of at least 1"),
        ({"in_channels": 0}, r"`in_channels` \(=0\) must be an integer of at least 1"),
        ({"num_classes": -1}, r"`num_classes` \(=-1\) must be an integer of at least 0"),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CifarResNet(**options)
