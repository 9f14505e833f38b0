"""Residual Attention Networks for small images (Wang et al., CVPR 2017, arXiv 1704.06904)."""

# B batch, C channels, H W the map

from __future__ import annotations

from torch import Tensor, nn

from saccade._checks import check_int
from saccade.attention.residual_mask import ResidualMask
from saccade.nets._classifier import Classifier, per_stage

POOLINGS = (3, 2, 1)  # of the masks, by stage


class PreActivationBottleneck(nn.Module):
    """BatchNorm, ReLU, convolution three times, C_in -> C / 4 -> C / 4 -> C, beside a shortcut.

    Where the shape changes, the shortcut is a 1 x 1 convolution that begins after the first BatchNorm and ReLU.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        width = channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.downsample: nn.Module | None = None
        if stride > 1 or in_channels != channels:
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(out)
        out = self.conv2(self.relu(self.bn2(self.conv1(out))))
        return self.conv3(self.relu(self.bn3(out))) + shortcut


class AttentionModule(nn.Module):
    """``h = before(x)``, ``y = after((1 + M(h)) * T(h))``: a trunk T of two units and the soft mask M of its input."""

    def __init__(self, channels: int, poolings: int) -> None:
        super().__init__()
        self.before = PreActivationBottleneck(channels, channels)
        self.trunk = nn.Sequential(*(PreActivationBottleneck(channels, channels) for _ in range(2)))
        self.mask = ResidualMask(channels, depth=poolings)
        self.after = PreActivationBottleneck(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.after(self.mask.gate(x) * self.trunk(x))


class ResidualAttentionNet(Classifier):
    """The Residual Attention Network for small images: Attention-56, -92, -128, -164, -236, -452.

    A 3 x 3 stem of 16 filters; three stages of 64, 128, 256 channels at strides 1, 2, 2, each of two residual units and
    m attention modules; BatchNorm, ReLU, global average pooling, a linear layer. The trunk has 36 m + 20 layers of
    weights.

    Source: the paper; three stages, as many modules in each, two further units per stage, and 36 m + 20 are from
    memory. Chosen by us, since we know no statement of the paper: the widths (by the count of parameters: Attention-92
    and -236 have 1.9 M and 5.1 M there, from memory), units before the modules, masks that halve the maps of 32, 16 and
    8 positions three, two and one times as on ImageNet.

    Args:
        depth: 36 m + 20: 56, 92, 128, ...
        in_channels: of the images.
        num_classes: outputs; 0 for the pooled features.

    Shapes: (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        UsageError: a depth that is no 36 m + 20, with the nearest.
    """

    def __init__(self, depth: int = 92, *, in_channels: int = 3, num_classes: int = 100) -> None:
        super().__init__()
        check_int("in_channels", in_channels)
        modules = per_stage(depth, 36, 20, "36 m + 20")
        self.config = {"depth": depth, "in_channels": in_channels}
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 64, 1, modules, POOLINGS[0])
        self.layer2 = _stage(64, 128, 2, modules, POOLINGS[1])
        self.layer3 = _stage(128, 256, 2, modules, POOLINGS[2])
        self.bn1 = nn.BatchNorm2d(256)
        self.relu = nn.ReLU()
        self._finish((64, 128, 256), in_channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.layer3(self.layer2(self.layer1(self.conv1(x))))))


def _stage(in_channels: int, channels: int, stride: int, modules: int, poolings: int) -> nn.Sequential:
    units = (PreActivationBottleneck(in_channels, channels, stride), PreActivationBottleneck(channels, channels))
    return nn.Sequential(*units, *(AttentionModule(channels, poolings) for _ in range(modules)))
