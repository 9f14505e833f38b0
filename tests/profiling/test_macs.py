"""Multiply-accumulates against hand counts and published figures."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.ops import SqueezeExcitation

from saccade import AAConv2d, create_attention
from saccade.profiling.macs import count_macs


def test_convolutions_and_linear_layers():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(8 * 4 * 5, 7))
    assert count_macs(model, torch.zeros(2, 3, 8, 10)) == 2 * (8 * 3 * 9 * 4 * 5 + 8 * 4 * 5 * 7)


def test_grouped_convolution():
    assert count_macs(nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.zeros(1, 8, 5, 5)) == 8 * 9 * 25


PLAIN = (
    "alexnet", "densenet121", "googlenet", "inception_v3", "mnasnet1_0", "mobilenet_v2", "resnet18", "resnet50",
    "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0", "swin_t", "vgg16", "vit_b_16",
)  # fmt: skip
GATED = ("efficientnet_b0", "mobilenet_v3_large", "regnet_y_400mf")
ROUNDING = 0.0005e9  # torchvision gives "GFLOPS", of multiply-accumulates, to three digits after the point


def published(name: str) -> tuple[nn.Module, torch.Tensor, float]:
    """A network without numbers, an image of its size, and the count that torchvision publishes."""
    weights = models.get_model_weights(name).DEFAULT
    size = weights.transforms().crop_size[0]
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    # Regnet works out its widths by tensors, which need numbers.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = models.get_model(name, **slow)
    return model.to("meta"), torch.empty(1, 3, size, size, device="meta"), weights.meta["_ops"] * 1e9


@pytest.mark.parametrize("name", PLAIN)
def test_torchvisions_published_counts(name):
    model, image, count = published(name)
    assert count_macs(model, image) == pytest.approx(count, abs=ROUNDING)


@pytest.mark.parametrize("name", GATED)
def test_torchvision_leaves_out_the_products_with_gates(name):
    model, image, count = published(name)
    gated: list[int] = []
    for module in model.modules():
        if isinstance(module, SqueezeExcitation):
            module.register_forward_hook(lambda _module, _taken, given: gated.append(given.numel()))
    counted = count_macs(model, image)
    assert len(gated) > 5
    assert counted - sum(gated) == pytest.approx(count, abs=ROUNDING)


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
    # The logits of the offsets, and the tables, shared by the heads, read by interpolation.
    tables = (2 * height - 1 + 2 * width - 1) * dk // heads
    offsets = positions * (height + width) * dk + tables if relative else 0
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


class Apply(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@pytest.mark.parametrize(("mode", "values"), [("nearest", 0), ("bilinear", 4), ("bicubic", 16)])
def test_interpolation_counts_the_values_that_an_element_weighs(mode, values):
    x, grid = torch.zeros(2, 3, 4, 5), torch.zeros(2, 7, 9, 2)
    resize = Apply(lambda x: F.interpolate(x, size=(8, 6), mode=mode))
    assert count_macs(resize, x) == values * 2 * 3 * 8 * 6
    sample = Apply(lambda x: F.grid_sample(x, grid, mode=mode, align_corners=False))
    assert count_macs(sample, x) == values * 2 * 3 * 7 * 9


def test_interpolation_along_one_axis_and_three():
    line, volume = torch.zeros(2, 3, 5), torch.zeros(2, 3, 4, 5, 6)
    assert count_macs(Apply(lambda x: F.interpolate(x, size=9, mode="linear")), line) == 2 * 2 * 3 * 9
    resize = Apply(lambda x: F.interpolate(x, size=(2, 3, 4), mode="trilinear"))
    assert count_macs(resize, volume) == 8 * 2 * 3 * 2 * 3 * 4
    sample = Apply(lambda x: F.grid_sample(x, torch.zeros(2, 2, 3, 4, 3), align_corners=False))
    assert count_macs(sample, volume) == 8 * 2 * 3 * 2 * 3 * 4


def test_products_with_vectors():
    x = torch.zeros(6, 4)
    assert count_macs(Apply(lambda x: x @ x[0]), x) == 6 * 4
    assert count_macs(Apply(lambda x: torch.addmv(x[:, 0], x, x[0])), x) == 6 * 4
    assert count_macs(Apply(lambda x: x[0] @ x[1]), x) == 4


def test_multihead_attention_counts_though_eval_mode_fuses_it():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    projections, attention, perceptron = 4 * 10 * 16 * 16, 2 * 10 * 10 * 16, 2 * 10 * 16 * 32
    assert count_macs(layer, torch.zeros(3, 10, 16)) == 3 * (projections + attention + perceptron)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("images", [1, 2])
def test_a_plain_number_is_free_and_the_one_gate_of_an_image_is_not(images):
    x = torch.zeros(images, 8, 3, 3)
    assert count_macs(Apply(lambda x: 2 * x * nn.Parameter(torch.ones(1)) * torch.ones(())), x) == 0
    assert count_macs(Apply(lambda x: x * torch.ones(len(x), 1, 1, 1)), x) == images * 8 * 9
