"""Wide ResNets for small images, from "Wide Residual Networks" (Zagoruyko and Komodakis, arXiv 1605.07146)."""

# B batch, C channels, H W the map

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_choice, check_int, check_number
from saccade.nets._classifier import Classifier, per_stage

SHORTCUTS = ("pool", "projection")


class Pool(nn.Module):
    """A shortcut without parameters: a mean over the stride; zeros for new channels, as many on each side."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        # A last row or column that is left over is a mean of its own, as the convolution beside has an output for it.
        x = F.avg_pool2d(x, self.stride, ceil_mode=True) if self.stride > 1 else x
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU, 3 x 3 convolution, twice, beside a shortcut.

    Where the shortcut changes shape it begins after the first BatchNorm and ReLU, as in the authors' code.
    """

    def __init__(self, in_channels: int, width: int, stride: int, *, dropout: float, shortcut: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.downsample: nn.Module | None = None
        if stride > 1 or in_channels != width:
            make = Pool if shortcut == "pool" else _projection
            self.downsample = make(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(out)
        out = self.dropout(self.relu(self.bn2(self.conv1(out))))
        return self.conv2(out) + shortcut


class WideResNet(Classifier):
    """The Wide ResNet family for small images, activations before convolutions.

    A 3 x 3 stem of 16 filters, three stages of 16k, 32k, 64k channels at strides 1, 2, 2, BatchNorm, ReLU, global
    average pooling, a linear layer.

    Args:
        depth: 6n + 4: 10, 16, 22, 28, 40.
        widen: k, the factor of the widths; 10 in WRN-28-10.
        shortcut: where a block changes shape: ``"pool"``, a mean over the stride and zeros for new channels, which has
            no parameters (WRN-28-10 then has the 36.3 M of the AAConv paper's table), or ``"projection"``, the 1 x 1
            convolution of the authors' code (36.5 M).
        dropout: between the convolutions of a block.
        in_channels: of the images.
        num_classes: outputs; 0 for the pooled features.

    Shapes: (B, in_channels, H, W) -> (B, num_classes), any H, W.

    Raises:
        UsageError: a depth that is no 6n + 4, with the nearest.
    """

    def __init__(
        self,
        depth: int = 28,
        *,
        widen: int = 10,
        shortcut: str = "pool",
        dropout: float = 0.0,
        in_channels: int = 3,
        num_classes: int = 100,
    ) -> None:
        super().__init__()
        check_int("widen", widen)
        check_int("in_channels", in_channels)
        check_choice("shortcut", shortcut, SHORTCUTS)
        check_number("dropout", dropout, low=0, high=0.99)
        blocks = per_stage(depth, 6, 4, "6n + 4")
        self.config = {"depth": depth, "widen": widen, "shortcut": shortcut, "dropout": dropout,
                       "in_channels": in_channels}  # fmt: skip
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        given = {"dropout": dropout, "shortcut": shortcut}
        self.layer1 = _stage(widths[0], widths[1], blocks, 1, **given)
        self.layer2 = _stage(widths[1], widths[2], blocks, 2, **given)
        self.layer3 = _stage(widths[2], widths[3], blocks, 2, **given)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU()
        self._finish(widths[1:], in_channels, num_classes)

    @property
    def default_conv(self) -> str:
        """The convolutions that attention augments by default: the first of each block, as in the AAConv paper."""
        return "layer?.*.conv1"

    def forward_features(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.layer3(self.layer2(self.layer1(self.conv1(x))))))


def _stage(in_channels: int, width: int, blocks: int, stride: int, **given: Any) -> nn.Sequential:
    first = PreActivationBlock(in_channels, width, stride, **given)
    return nn.Sequential(first, *(PreActivationBlock(width, width, 1, **given) for _ in range(blocks - 1)))


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
