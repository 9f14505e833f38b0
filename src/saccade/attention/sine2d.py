"""Sinusoids of the row and of the column, added to the map: positions without a parameter."""

# B batch, C channels, H W the map

from __future__ import annotations

import math

import torch
from torch import Tensor

from saccade._checks import check_int, check_map, check_number
from saccade.attention._base import Additive
from saccade.attention._card import Paper

PAPER = Paper(
    title="Image Transformer",
    authors="Niki Parmar, Ashish Vaswani, Jakob Uszkoreit, Lukasz Kaiser, Noam Shazeer, Alexander Ku, Dustin Tran",
    year=2018,
    venue="ICML",
    arxiv="1802.05751",
    kind="position",
    attends="spatial",
    equations=(
        "p[2k] = sin(t / base^(2k / n)), p[2k + 1] = cos(t / base^(2k / n)) for channel 2k, 2k + 1 of n",
        "y[:n] = x[:n] + p with t the row, n = C / 2 channels",
        "y[n:] = x[n:] + p with t the column, the other C / 2 channels",
    ),
    deviations=(
        (
            "The equations are from memory of the paper: half of the channels for the row, half for the column. We "
            "count rows and columns from 0 and put the row's half first."
        ),
        (
            "C that 4 does not divide: an odd C has one channel more for the row than for the column, and of an odd "
            "number n of channels the last is a sine without its cosine."
        ),
    ),
    limits=("Up to 4 channels hold a single frequency. One channel knows only the row, by its sine.",),
)


def axis_sinusoids(size: int, channels: int, base: float, like: Tensor) -> Tensor:
    """Sine and cosine in turn of the positions 0 .. size - 1, fast ones first: (channels, size), float32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    positions = torch.arange(size, device=like.device, dtype=dtype)
    # One frequency for two channels, and one for the last of an odd number.
    exponents = torch.arange(0, channels, 2, device=like.device, dtype=dtype) / max(channels, 1)
    angles = positions / base ** exponents[:, None]
    return torch.stack((angles.sin(), angles.cos()), dim=1).flatten(0, 1)[:channels]


def sinusoids_2d(x: Tensor, base: float = 10000.0) -> Tensor:
    """The term of x (B, C, H, W), which depends on its size alone: (1, C, H, W), the rows' channels first."""
    channels, height, width = x.shape[1:]
    half = channels // 2
    rows = axis_sinusoids(height, channels - half, base, x)[:, :, None].expand(-1, -1, width)
    columns = axis_sinusoids(width, half, base, x)[:, None, :].expand(-1, height, -1)
    return torch.cat((rows, columns))[None]


class Sine2d(Additive):
    """Two-dimensional sinusoids (Parmar et al., ICML 2018, arXiv 1802.05751; from memory), no parameters.

    ``y = x + p``: half of the channels hold sines and cosines of the row, half of the column, in turn, with
    wavelengths from 2 pi up to 2 pi ``base``.

    Args:
        channels: C.
        base: the ratio between the longest and the shortest wavelength in the limit of many channels, 10000.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``base`` below 1; a map with another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, base: float = 10000.0) -> None:
        super().__init__()
        check_int("channels", channels)
        check_number("base", base, low=1, high=math.inf)
        self.channels = channels
        self.base = base

    def term(self, x: Tensor) -> Tensor:
        """What is added to x, (1, C, H, W)."""
        check_map(x, self.channels, "sine2d")
        return sinusoids_2d(x, self.base)
