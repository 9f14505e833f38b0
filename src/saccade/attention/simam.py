"""SimAM: weigh each value by how far it stands out from the others of its channel, without parameters."""

# B batch, C channels, H W the map

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from saccade._checks import check_int, check_map, check_number
from saccade.attention._base import Gate
from saccade.attention._card import Paper

PAPER = Paper(
    title="SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
    authors="Lingxiao Yang, Ru-Yuan Zhang, Lida Li, Xiaohua Xie",
    year=2021,
    venue="ICML",
    arxiv=None,
    kind="gate",
    attends="channel+spatial",
    equations=(
        "mu = mean of x over H, W",
        "d = (x - mu)^2",
        "v = sum of d over H, W / (H W - 1)",
        "1 / e = d / (4 (v + lam)) + 1 / 2",
        "y = sigmoid(1 / e) * x",
    ),
    deviations=(
        "lam is the 1e-4 of the authors' module; the training commands that they publish pass 0.1.",
        "On a single position, which has no variance to estimate, H W - 1 is taken as 1: the gate is sigmoid(1 / 2).",
        "Mean and variance are computed in at least float32.",
    ),
)


def simam_gate(x: Tensor, lam: float) -> Tensor:
    """The weight of every value, x (B, C, H, W) -> (B, C, H, W) in [sigmoid(1 / 2), 1)."""
    # A squared difference of two near values has no digits left in 16 bits.
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    squared = (x - x.mean(dim=(2, 3), keepdim=True)).square()
    freedom = cast(int, torch.sym_max(x.shape[2] * x.shape[3] - 1, 1))
    variance = squared.sum(dim=(2, 3), keepdim=True) / freedom
    return (squared / (4 * (variance + lam)) + 0.5).sigmoid()


class SimAM(Gate):
    """SimAM (Yang, Zhang, Li, Xie, ICML 2021, PMLR 139:11863).

    ``y = x * sigmoid(d / (4 (v + lam)) + 1 / 2)`` with ``d = (x - mu)^2``, mu the mean and v the unbiased variance of
    a channel over the map: the inverse of the energy of each value, the lower the more it stands out. The paper's
    lambda is our ``lam``; its t is x, its sigma^2 our v. It has no parameters.

    Args:
        channels: C.
        lam: lambda, 1e-4; it keeps the quotient finite on a constant map.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` below 1; ``lam`` below 1e-12; a map with another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, lam: float = 1e-4) -> None:
        super().__init__()
        check_int("channels", channels)
        check_number("lam", lam, low=1e-12, high=math.inf)
        self.channels = channels
        self.lam = lam

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied, (B, C, H, W)."""
        check_map(x, self.channels, "simam")
        return simam_gate(x, self.lam)
