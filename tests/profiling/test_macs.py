"""Multiply-accumulates against hand counts and published figures."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from saccade import AAConv2d, create_attention
from saccade.profiling.macs import count_macs


def test_convolutions_and_linear_layers():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(8 * 4 * 5, 7))
    assert count_macs(model, torch.zeros(2, 3, 8, 10)) == 2 * (8 * 3 * 9 * 4 * 5 + 8 * 4 * 5 * 7)


def test_grouped_convolution():
    assert count_macs(nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.zeros(1, 8, 5, 5)) == 8 * 9 * 25


@pytest.mark.parametrize(("build", "published"), [(models.resnet18, 1.814e9), (models.resnet50, 4.089e9)])
def test_torchvisions_published_counts(build, published):
    # torchvision's weights give "_ops" in GFLOPS of multiply-accumulates, to three digits after the point.
    with torch.device("meta"):
        model, image = build(), torch.empty(1, 3, 224, 224)
    assert count_macs(model, image) == pytest.approx(published, abs=0.0006e9)


def test_a_gate_counts_one_for_each_element_it_multiplies():
    channels, positions, hidden = 32, 7 * 5, 2
    se = create_attention("se", channels)
    assert count_macs(se, torch.zeros(1, channels, 7, 5)) == 2 * channels * hidden + channels * positions


def test_gam_by_hand():
    channels, positions, hidden = 16, 7 * 5, 4
    perceptron = 2 * channels * hidden * positions
    spatial = 2 * 49 * channels * hidden * positions
    gates = 2 * channels * positions
    assert count_macs(create_attention("gam", channels), torch.zeros(1, channels, 7, 5)) == perceptron + spatial + gates


@pytest.mark.parametrize("relative", [True, False])
def test_attention_over_positions_by_hand(relative):
    heads, dk, dv, height, width = 2, 8, 4, 7, 5
    layer = AAConv2d(6, 12, 3, heads=heads, dk=dk, dv=dv, relative=relative, feature_size=(height, width))
    positions = height * width
    convolution = 6 * (12 - dv) * 9 * positions
    projections = 6 * (2 * dk + dv) * positions + dv * dv * positions
    # Without positions it is PyTorch's attention, whose values are filled up to the depth of the keys.
    attention = positions**2 * (dk + dv) if relative else positions**2 * (dk + dk)
    offsets = positions * (height + width) * dk if relative else 0
    assert count_macs(layer, torch.zeros(1, 6, height, width)) == convolution + projections + attention + offsets


def test_scaled_dot_product_attention_counts_on_a_cpu():
    class Attend(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    assert count_macs(Attend(), torch.zeros(2, 4, 10, 16)) == 2 * 4 * 10 * 10 * (16 + 16)


def test_counting_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, torch.randn(2, 3, 4, 4))
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_gate_by_a_scaled_sum_counts_too():
    positions = 14 * 14
    # Two products for each channel, its gate's and its shift's, and one for each value of the map.
    assert count_macs(create_attention("iebn", 256), torch.zeros(1, 256, 14, 14)) == 2 * 256 + 256 * positions
    sk = create_attention("sk", 256)
    branches = 2 * 256 * (256 // 32) * 9 * positions
    layers = 256 * 32 + 32 * 2 * 256
    assert count_macs(sk, torch.zeros(1, 256, 14, 14)) == branches + layers + 2 * 256 * positions
