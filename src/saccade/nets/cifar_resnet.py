"""ResNets for small images: three stages, from "Deep Residual Learning for Image Recognition", section 4.2."""

# B batch, C channels, H W the map

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from saccade._checks import check_choice, check_int
from saccade.errors import UsageError
from saccade.nets._classifier import Classifier, per_stage


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; the stride is on the first."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut; the stride is on the 3 x 3, the last is 4 times wider."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.downsample = _shortcut(in_channels, width * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class CifarResNet(Classifier):
    """The ResNet family for small images (He et al., arXiv 1512.03385, section 4.2), after the activation.

    A 3 x 3 stem, three stages of equal depth at strides 1, 2, 2, global average pooling, a linear layer.

    Args:
        depth: 6n + 2 with basic blocks (8, 14, 20, 32, 44, 56, 110), 9n + 2 with bottlenecks (11, 83, 164).
        block: ``"basic"`` or ``"bottleneck"``.
        widths: of the three stages, 16, 32, 64 in the paper; a bottleneck stage gives four times as many channels.
        stem_stride: 1 in the paper; 2 makes every map four times smaller.
        in_channels: of the images.
        num_classes: outputs; 0 for the pooled features.

    Shapes: (B, in_channels, H, W) -> (B, num_classes), any H, W.

    Deviation from the paper: where a shortcut changes shape it is a 1 x 1 convolution with BatchNorm (the paper's
    option B, as in its ImageNet networks), not padding with zeros.

    Raises:
        UsageError: a depth that the block cannot make, with the nearest one that it can.
    """

    def __init__(
        self,
        depth: int = 20,
        *,
        block: str = "basic",
        widths: Sequence[int] = (16, 32, 64),
        stem_stride: int = 1,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_choice("block", block, BLOCKS)
        check_int("stem_stride", stem_stride)
        check_int("in_channels", in_channels)
        if not isinstance(widths, Sequence) or len(widths) != 3:
            raise UsageError(f"`widths` (={widths!r}) must be three integers, one per stage")
        for width in widths:
            check_int("widths", width)
        self.config = {"depth": depth, "block": block, "widths": tuple(widths), "stem_stride": stem_stride,
                       "in_channels": in_channels}  # fmt: skip
        self.block = make = BLOCKS[block]
        each = {"basic": 6, "bottleneck": 9}[block]
        blocks = per_stage(depth, each, 2, f"{each}n + 2 with {block} blocks")
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        grown = [width * make.expansion for width in widths]
        self.layer1 = _stage(make, blocks, widths[0], widths[0], stride=1)
        self.layer2 = _stage(make, blocks, grown[0], widths[1], stride=2)
        self.layer3 = _stage(make, blocks, grown[1], widths[2], stride=2)
        self._finish(grown, in_channels, num_classes, stride=stem_stride)

    @property
    def default_conv(self) -> str:
        """The convolutions that attention augments by default, once a block in the two deepest stages, as the AAConv
        paper does: the first 3 x 3 of each."""
        return f"layer[23].*.{'conv1' if self.block is BasicBlock else 'conv2'}"

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))


def _stage(
    make: type[BasicBlock] | type[Bottleneck], blocks: int, in_channels: int, width: int, *, stride: int
) -> nn.Sequential:
    first = make(in_channels, width, stride)
    return nn.Sequential(first, *(make(width * make.expansion, width, 1) for _ in range(blocks - 1)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )
