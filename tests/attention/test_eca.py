"""Efficient channel attention against its equations in plain numpy, and the rule for the kernel size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.eca import EfficientChannelAttention, eca_kernel_size
from saccade.errors import UsageError


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("channels", "kernel_size"), [(64, None), (12, 5), (3, 7), (1, None), (5, 1)])
def test_equals_the_papers_equations(channels: int, kernel_size: int | None, shared: bool) -> None:
    module = build("eca", channels, kernel_size=kernel_size, shared=shared).double()
    x = maps(2, channels, 5, 4, dtype=torch.float64)
    kernels = np.broadcast_to(module.weight.detach().numpy(), (channels, module.weight.shape[1]))
    half = kernels.shape[1] // 2
    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        z = [plane.sum() / plane.size for plane in sample]
        for c, plane in enumerate(sample):
            inside = [k for k in range(-half, half + 1) if 0 <= c + k < channels]
            expected[b, c] = sigmoid(sum(kernels[c, half + k] * z[c + k] for k in inside)) * plane
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("channels", "size"),
    [(1, 1), (2, 1), (3, 1), (8, 3), (20, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_kernel_size_follows_the_papers_rule(channels: int, size: int) -> None:
    assert eca_kernel_size(channels) == size
    assert EfficientChannelAttention(channels).weight.shape == (1, size)


@pytest.mark.parametrize(
    ("channels", "gamma", "b", "size"), [(256, 1, 1, 9), (256, 1, 0, 9), (256, 4, 1, 3), (2, 2, -9, 5)]
)
def test_gamma_and_b_set_the_kernel_size(channels: int, gamma: float, b: float, size: int) -> None:
    assert EfficientChannelAttention(channels, gamma=gamma, b=b).weight.shape == (1, size)
    assert EfficientChannelAttention(channels, gamma=gamma, b=b, kernel_size=11).weight.shape == (1, 11)


def test_the_rule_gives_resnet_50_another_list_than_the_authors_as_the_card_says() -> None:
    rule = [eca_kernel_size(channels) for channels in (256, 512, 1024, 2048)]
    assert rule == [5, 5, 5, 7]
    assert "3, 5, 5, 7" in EfficientChannelAttention.paper.deviations[0]
    assert "5, 5, 5, 7" in EfficientChannelAttention.paper.deviations[0]


def test_the_gate_is_one_number_between_zero_and_one_per_channel() -> None:
    module, x = build("eca", 20), maps(2, 20, 5, 4)
    gate = module.gate(x)
    assert gate.shape == (2, 20, 1, 1)
    assert ((gate > 0) & (gate < 1)).all()
    torch.testing.assert_close(module(x), x * gate)
    torch.testing.assert_close(module.gate(x.flip(2, 3)), gate)


def test_a_channel_sees_its_neighbours_alone() -> None:
    module, x = build("eca", 20, kernel_size=5), maps(1, 20, 5, 4)
    before = module.gate(x).flatten()
    changed = x.clone()
    changed[:, 10] += 1
    assert (module.gate(changed).flatten() != before).nonzero().flatten().tolist() == [8, 9, 10, 11, 12]


def test_one_kernel_for_all_channels_is_the_same_as_equal_ones() -> None:
    module, x = build("eca", 20, kernel_size=3), maps(2, 20, 5, 4)
    own = EfficientChannelAttention(20, kernel_size=3, shared=False)
    assert own.weight.shape == (20, 3)
    own.load_state_dict({"weight": module.weight.expand(20, 3)})
    assert torch.equal(own(x), module(x))


@pytest.mark.parametrize("shared", [True, False])
def test_starts_as_a_convolution_does(shared: bool) -> None:
    torch.manual_seed(0)
    weight = EfficientChannelAttention(600, kernel_size=9, shared=shared).weight
    reference = torch.nn.Conv1d(1, 1, 9, bias=False).weight
    limit = 1 / math.sqrt(9)
    assert reference.abs().max() <= limit
    assert weight.abs().max() <= limit
    assert weight.std() > 0.2 * limit


@pytest.mark.parametrize("shared", [True, False])
def test_exports_for_every_size(shared: bool) -> None:
    module = build("eca", 8, kernel_size=3, shared=shared)
    batch, height, width = (torch.export.Dim(axis, min=1, max=64) for axis in ("batch", "height", "width"))
    shapes = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(module, (maps(2, 8, 6, 7),), dynamic_shapes=shapes, strict=True).module()
    for size in [(1, 8, 1, 1), (3, 8, 9, 5)]:
        torch.testing.assert_close(program(maps(*size)), module(maps(*size)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, r"`kernel_size` \(=4\) must be odd"),
        ({"kernel_size": 0}, r"`kernel_size` \(=0\) must be an integer of at least 1"),
        ({"gamma": 0}, r"`gamma` \(=0\) must be a number from 0.01 to 100"),
        ({"b": math.inf}, r"`b` \(=inf\) must be a number from -100 to 100"),
        ({"shared": 1}, r"`shared` \(=1\) must be True or False"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EfficientChannelAttention(8, **options)


def test_no_channels_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"`channels` \(=0\) must be an integer of at least 1"):
        EfficientChannelAttention(0)
