"""Multiply-accumulates of every mechanism of the catalogue against its formula, worked out by hand from its equations.

A matrix product costs one for each pair that it multiplies, a gate one for each value of the map. Sums, means, softmax
and normalisation cost nothing.
"""

import pytest
import torch

import saccade
from saccade.profiling.macs import count_macs

C, H, W = 64, 7, 5  # channels and the map; the other numbers follow from them by the papers' defaults
P = H * W
MAP = C * P
R4, R16 = C // 4, C // 16  # hidden widths
TABLES = 2 * H - 1 + 2 * W - 1  # rows of relative tables, each read by interpolation at every forward
BLOCK, WINDOW = 8 * 8, 14 * 14  # halo: one block covers the map, and sees 3 more on every side
POOLED = 4 * 3  # residual_mask: the map after a pooling of stride 2

FORMULAS = {
    # 56 filters of 3 x 3 and 8 channels of attention by 8 heads with keys as deep as 8 each.
    "aaconv": C * 56 * 9 * P + C * (2 * 64 + 8) * P + P * P * (64 + 8) + P * (H + W) * 64 + TABLES * 8 + 8 * 8 * P,
    "se": 2 * C * R16 + MAP,
    "ge": MAP,
    "eca": 3 * C + MAP,
    "iebn": 2 * C + MAP,
    # The decision, a perceptron, a kernel of 3, a scale; three weights for each channel, two products of their gates.
    "sem": 3 * C + 2 * C * R16 + 3 * C + C + 3 * C + 2 * C + MAP,
    "cbam": 2 * (2 * C * R16) + 2 * 49 * P + 2 * MAP,
    "bam": 2 * C * R16 + (C * R16 + 2 * 9 * R16 * R16 + R16) * P + MAP,
    "gam": 2 * C * R4 * P + 2 * 49 * C * R4 * P + 2 * MAP,
    "triplet": 2 * 49 * (H * W + C * W + C * H) + MAP,
    # Two convolutions to 16 channels, the first with two coordinates, six parameters; two products for each coordinate
    # of the grid, and four values for each value of the result.
    "stn": (C + 2) * 16 * 9 * P + 16 * 16 * 9 * P + 6 * 16 + 2 * 2 * P + 4 * MAP,
    "nonlocal": 4 * C * (C // 2) * P + 2 * P * P * (C // 2),
    "sagan": 4 * C * (C // 8) * P + 2 * P * P * (C // 8),
    "gc": 2 * MAP + 2 * C * R16,
    "coord": C * 8 * (H + W) + 8 * C * (H + W) + 2 * MAP,
    # The likeness to the mean, the scale of a map for each of 64 groups, the gate.
    "sge": MAP + 64 * P + MAP,
    # Half of the channels by their mean, half by their deviation from it, the gate.
    "shuffle": C // 2 + C // 2 + MAP // 2 + MAP,
    # Query, pooling by it, value, up; query, its product with the values' weight and bias, their map; the gate.
    "psa": 2 * MAP + 2 * C * (C // 2) + C * (C // 2) + (C // 2) * (C + 1) + MAP + MAP,
    "simam": MAP,
    "sk": 2 * (C * C // 32 * 9 * P) + C * 32 + 32 * 2 * C + 2 * MAP,
    "coordconv": (C + 2) * C * 9 * P,
    "sine2d": 0,
    "bot": 3 * C * C * P + 2 * P * P * C + P * (H + W) * C + TABLES * C // 4,
    "halo": 3 * C * C * P + 2 * BLOCK * WINDOW * C + 2 * BLOCK * 14 * C,
    # 4 heads of queries 16 deep, one of keys and values; a context of 23 x 23 gives each pixel a 16 x 16 lambda.
    "lambda": C * (4 * 16 + 16 + 16) * P + 16 * 16 * P + 16 * 16 * 23 * 23 * P + 2 * 4 * 16 * 16 * P,
    "a2": C * 3 * R4 * P + 2 * R4 * R4 * P + R4 * C * P,
    "external": 4 * C * C * P,
    "gala": 2 * C * R4 + (C * R4 + R4) * P + 2 * C + MAP + MAP,
    "residual_mask": 2 * (2 * C * R4 + 9 * R4 * R4) * POOLED + 4 * MAP + 2 * C * C * P + MAP,
}
SIZED = ("aaconv", "bot")
# What is worked out once for all images of a batch: tables, coordinates and what is made of them or of parameters.
SHARED = {"aaconv": TABLES * 8, "bot": TABLES * C // 4, "coordconv": 2 * C * 9 * P, "stn": 2 * 16 * 9 * P}


def macs(name: str, images: int) -> int:
    options = {"feature_size": (H, W)} if name in SIZED else {}
    return count_macs(saccade.create_attention(name, C, **options), torch.zeros(images, C, H, W))


def test_there_is_a_formula_for_every_mechanism():
    assert sorted(FORMULAS) == sorted(saccade.list_attention())


@pytest.mark.parametrize("name", FORMULAS)
def test_count_of_a_mechanism(name):
    assert macs(name, 1) == FORMULAS[name]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_batch_counts_as_its_images(name):
    shared = SHARED.get(name, 0)
    assert macs(name, 3) == 3 * (FORMULAS[name] - shared) + shared
