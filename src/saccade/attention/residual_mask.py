"""Residual attention's soft mask: a small hourglass network weighs every value, on top of the value itself."""

# B batch, C channels, H W the map, R width of a bottleneck, D poolings

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_choice, check_int, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d

PAPER = Paper(
    title="Residual Attention Network for Image Classification",
    authors=("Fei Wang, Mengqing Jiang, Chen Qian, Shuo Yang, Cheng Li, Honggang Zhang, Xiaogang Wang, Xiaoou Tang"),
    year=2017,
    venue="CVPR",
    arxiv="1704.06904",
    kind="gate",
    attends="channel+spatial",
    equations=(
        "unit(z) = z + conv1x1(relu(BN(conv3x3(relu(BN(conv1x1(relu(BN(z)))))))))",
        "down: z_0 = x, z_d = unit(maxpool3x3/2(z_{d-1})) for d = 1 .. D",
        "up: u_D = z_D, u_{d-1} = z_{d-1} + bilinear(unit(u_d)), without z_0 in u_0",
        "M(x) = sigmoid(conv1x1(relu(BN(conv1x1(relu(BN(u_0)))))))",
        "y = (1 + M(x)) * x",
    ),
    deviations=(
        (
            "The paper's module is (1 + M(x)) * T(x) with a trunk T of its own. As a gate its trunk is the host's "
            "branch, and M is made from the branch's output, not from the trunk's input."
        ),
        (
            "From memory: sigmoid, bilinear upsampling, skips, the 1 x 1 convolutions at the end, the other two "
            "activations, and 3, 2, 1 poolings on maps of 56, 28, 14. Here the caller chooses; the default is 1."
        ),
        (
            "Each half has as many units per resolution as the other, so that the lowest has both halves'. Skips are "
            "plain additions; the input's resolution has none. A public port reports further ones in the authors' code."
        ),
        (
            "Ours, where we know no statement of the paper: a unit's width is max(1, C // reduction), reduction 4 as "
            "in ResNets; no convolution has a bias; layers start as PyTorch's; the spatial activation adds 1e-5 to the "
            "variance, the channel activation divides by no less than 1e-4."
        ),
        "Where a channel has a single value in train mode (batch 1 on a 1 x 1 map), BatchNorm uses running statistics.",
    ),
    limits=(
        "2 D units and two 1 x 1 convolutions: about (2.1 D units + 2) C^2 parameters at reduction 4.",
        (
            "torch.export makes one program for maps of at least 2^D + 1 positions each way: it wants a pooled map's "
            "height and width to be more than 1 for every size."
        ),
        'activation="spatial" gives the constant 1.5 on a 1 x 1 map: a single position does not differ from its mean.',
    ),
)

EPS = 1e-5
LEAST_LENGTH = 1e-4  # its inverse, which a gradient can carry, is within float16


def channel_activation(z: Tensor) -> Tensor:
    """Every position's vector of channels with length 1; a vector of zeros stays one."""
    # In float32 at least, like the next: the least length and the inverse deviation leave the range of float16.
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    return F.normalize(wide, dim=1, eps=LEAST_LENGTH).to(z.dtype)


def spatial_activation(z: Tensor) -> Tensor:
    """A sigmoid of every channel with mean 0 and variance 1 over its positions."""
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    centred = wide - wide.mean(dim=(2, 3), keepdim=True)
    variance = centred.square().mean(dim=(2, 3), keepdim=True)
    return (centred * (variance + EPS).rsqrt()).sigmoid().to(z.dtype)


ACTIVATIONS = {"mixed": Tensor.sigmoid, "channel": channel_activation, "spatial": spatial_activation}


class Unit(nn.Module):
    """A pre-activation bottleneck C -> R -> R -> C, added to its input."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = pre_activated(channels, width, 1)
        self.spread = pre_activated(width, width, 3)
        self.expand = pre_activated(width, channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        return z + self.expand(self.spread(self.reduce(z)))


def pre_activated(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """BatchNorm, ReLU, convolution; the size stays."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(BatchNorm2d(inputs), nn.ReLU(inplace=True), convolution)


class ResidualMask(Gate):
    """The soft mask of the Residual Attention Network (Wang et al., CVPR 2017, arXiv 1704.06904).

    ``y = (1 + M(x)) * x``. M is an hourglass: ``depth`` times max pooling and residual units, as many times residual
    units and bilinear upsampling with additions between equal resolutions, two 1 x 1 convolutions, an activation. The
    paper's r is our ``units``; its trunk is the host's branch, see the Card.

    Args:
        channels: C.
        depth: D, how often the map is halved, 1; the paper has 3, 2, 1 on maps of 56, 28, 14 (from memory).
        reduction: of the units, 4; their width is ``max(1, C // reduction)``.
        width: the hidden width itself, from 1 to C, in the place of ``C // reduction``.
        units: r, residual units per half and resolution, 1.
        activation: of the mask: ``"mixed"`` a sigmoid of every value; ``"channel"`` every position's vector of channels
            divided by its length; ``"spatial"`` every channel standardised over its positions, then a sigmoid.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels``, ``depth``, ``reduction`` or ``units`` below 1; a ``width`` not from 1 to C; an unknown
            ``activation``; a map with another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        channels: int,
        *,
        depth: int = 1,
        reduction: int = 4,
        width: int | None = None,
        units: int = 1,
        activation: str = "mixed",
    ) -> None:
        super().__init__()
        check_int("depth", depth)
        check_int("units", units)
        check_choice("activation", activation, ACTIVATIONS)
        width = hidden_width(channels, reduction, width)
        self.channels, self.activation = channels, activation

        def half() -> nn.ModuleList:
            """The units of every resolution, the highest first."""
            stages = [[Unit(channels, width) for _ in range(units)] for _ in range(depth)]
            return nn.ModuleList(nn.Sequential(*stage) for stage in stages)

        self.down, self.up = half(), half()
        self.head = nn.Sequential(pre_activated(channels, channels, 1), pre_activated(channels, channels, 1))

    def mask(self, x: Tensor) -> Tensor:
        """M, (B, C, H, W)."""
        check_map(x, self.channels, "residual_mask")
        maps = [x]
        for stage in self.down:
            maps.append(stage(F.max_pool2d(maps[-1], 3, stride=2, padding=1)))
        z = maps.pop()
        for stage in reversed(self.up):
            skip = maps.pop()
            z = F.interpolate(stage(z), size=skip.shape[-2:], mode="bilinear", align_corners=False)
            # The last map taken is the input: at its own resolution nothing is added.
            z = z + skip if maps else z
        return ACTIVATIONS[self.activation](self.head(z))

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied, 1 + M(x), (B, C, H, W)."""
        return 1 + self.mask(x)
