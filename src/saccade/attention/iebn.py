"""Instance enhancement batch normalisation: every image weighs the scale of its BatchNorm, channel by channel."""

# B batch, C channels, H W the map

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from saccade._checks import check_int, check_map, check_number
from saccade.attention._base import Mechanism, take_rows
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d
from saccade.errors import UsageError

PAPER = Paper(
    title="Instance Enhancement Batch Normalization: An Adaptive Regulator of Batch Noise",
    authors="Senwei Liang, Zhongzhan Huang, Mingfu Liang, Haizhao Yang",
    year=2020,
    venue="AAAI",
    arxiv="1908.04008",
    kind="norm",
    attends="channel",
    equations=(
        "m = mean of x over H, W: of the input, before it is normalised",
        "g = sigmoid(gate_weight * m + gate_bias)",
        "y = x_hat * (weight * g) + bias, x_hat the normalised x",
    ),
    deviations=(
        "Where a channel has a single value in train mode (batch 1 on a 1 x 1 map), it uses running statistics.",
        "Computed as bias + g * (BatchNorm(x) - bias): the same but for rounding.",
    ),
    limits=(
        (
            "The authors put it in the place of every BatchNorm of the stem and of the residual branches, not of that "
            "on a projected shortcut."
        ),
        (
            "It is a BatchNorm2d to isinstance, so torch.nn.SyncBatchNorm.convert_sync_batchnorm would make a plain "
            "SyncBatchNorm of it and drop the gate: do not convert it."
        ),
    ),
)


def enhancement_gate(x: Tensor, gate_weight: Tensor, gate_bias: Tensor) -> Tensor:
    """How much of its scale every channel keeps: x (B, C, H, W), gate_weight and gate_bias (C,) -> (B, C, 1, 1)."""
    return (gate_weight * x.mean(dim=(2, 3)) + gate_bias).sigmoid()[:, :, None, None]


class EnhancementGate(nn.Module):
    """The gate of instance enhancement without its BatchNorm: (B, C, H, W) -> (B, C, 1, 1)."""

    def __init__(self, gate_weight: Tensor, gate_bias: Tensor) -> None:
        super().__init__()
        self.gate_weight = nn.Parameter(gate_weight.detach().clone())
        self.gate_bias = nn.Parameter(gate_bias.detach().clone())

    def gate(self, x: Tensor) -> Tensor:
        """The factor of every channel's scale, in (0, 1)."""
        return enhancement_gate(x, self.gate_weight, self.gate_bias)


class InstanceEnhancementBatchNorm2d(Mechanism, BatchNorm2d):
    """Instance enhancement batch normalisation (Liang et al., AAAI 2020, arXiv 1908.04008, and the authors' code).

    ``y = x_hat * (weight * sigmoid(gate_weight * m + gate_bias)) + bias`` with x_hat the map normalised as by
    BatchNorm, and m the mean of the map before that. The paper's gamma, beta are our ``weight``, ``bias``, its gamma
    hat, beta hat our ``gate_weight``, which starts at 0, and ``gate_bias``, which starts at -1: the gate starts at
    sigmoid(-1) for every image.

    Args:
        channels: C.
        eps, momentum: as ``torch.nn.BatchNorm2d``.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` below 1; ``eps`` or ``momentum`` outside [0, 1]; a map with another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        check_int("channels", channels)
        check_number("eps", eps, low=0, high=1)
        if momentum is not None:
            check_number("momentum", momentum, low=0, high=1)
        super().__init__(channels, eps=eps, momentum=momentum)
        self.gate_weight = nn.Parameter(torch.empty(channels))
        self.gate_bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The initialisation of the authors, and fresh running statistics."""
        super().reset_parameters()
        if "gate_bias" in self._parameters:  # BatchNorm's constructor calls this before there is a gate.
            nn.init.zeros_(self.gate_weight)
            nn.init.constant_(self.gate_bias, -1.0)

    @classmethod
    def from_norm(cls, norm: nn.BatchNorm2d) -> Self:
        """The mechanism in the place of a BatchNorm, with its scale, shift, running statistics, eps and momentum.

        Raises:
            UsageError: a module that is no BatchNorm2d, or one without scale and shift or without running statistics.
        """
        if not isinstance(norm, nn.BatchNorm2d) or not norm.affine or norm.running_mean is None:
            raise UsageError(
                f"{cls.__name__} can take the place of an nn.BatchNorm2d with affine=True and "
                f"track_running_stats=True; got {norm}"
            )
        module = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        module.to(device=norm.weight.device, dtype=norm.weight.dtype)
        module.take_norm(norm)
        return module.train(norm.training)

    def take_norm(self, norm: nn.BatchNorm2d) -> None:
        """Start from a BatchNorm's scale, shift and running statistics."""
        take_rows(self.weight, norm.weight)
        take_rows(self.bias, norm.bias)
        for ours, theirs in zip(self.buffers(), norm.buffers(), strict=True):
            ours.copy_(theirs)

    def scale_gate(self) -> EnhancementGate:
        """The gate alone, for a normalisation that stays; it starts as this one does."""
        return EnhancementGate(self.gate_weight, self.gate_bias)

    def gate(self, x: Tensor) -> Tensor:
        """The factor of every channel's scale, (B, C, 1, 1) in (0, 1)."""
        return enhancement_gate(x, self.gate_weight, self.gate_bias)

    def forward(self, input: Tensor) -> Tensor:
        check_map(input, self.num_features, "iebn")
        normalised, gate = super().forward(input), self.gate(input)
        # x_hat * (weight * g) + bias, from x_hat * weight + bias in one pass over the map.
        shift = self.bias[:, None, None] * (1 - gate)
        return torch.addcmul(shift.to(normalised.dtype), normalised, gate.to(normalised.dtype))
