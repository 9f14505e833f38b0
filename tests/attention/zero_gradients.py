"""The gradients that mathematics makes zero, in one place: mechanism or variant, parameters (a glob), mode, reason.

A ReLU that is off for a whole batch also stops the gradients of what is before it, and does so easily where a
bottleneck is left with one unit. That is a matter of values, not of mathematics, and is not listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from attention.builders import Variant


@dataclass(frozen=True)
class Zero:
    parameters: str
    reason: str
    modes: tuple[str, ...] = ("train", "eval")


BEFORE_NORM = "a BatchNorm in train mode takes the mean away, and a bias with it"
UNDER_SOFTMAX = "a number added to all logits of a softmax changes nothing"
ONE_WEIGHT = "a softmax over one position, or one unit, is 1 whatever its logit"
ONE_VALUE = "a value that is its own mean is 0 when normalised: only the shift behind is left"
ONE_PLACE = "the only pixel is in the middle: its coordinates are 0"
ONE_PIXEL = "whatever the transform, there is but one pixel to read"
CONSTANT = "a gate of a standardised value is the constant one half on a single position"

# On any map, with widths of more than one unit. What is listed for a variant stands in the place of the mechanism's.
ZEROS: dict[str, tuple[Zero, ...]] = {
    "gam": (Zero("spatial.[03].bias", BEFORE_NORM, ("train",)),),
    "bam": (
        Zero("channel.[03].bias", BEFORE_NORM, ("train",)),
        Zero("spatial.[0369].bias", BEFORE_NORM, ("train",)),
    ),
    "bam(combine='product', norm_last=False)": (
        Zero("channel.0.bias", BEFORE_NORM, ("train",)),
        Zero("spatial.[036].bias", BEFORE_NORM, ("train",)),
    ),
    "coord": (Zero("reduce.bias", BEFORE_NORM, ("train",)),),
    "psa": (Zero("channel_query.bias", UNDER_SOFTMAX),),
    "nonlocal": (
        Zero("phi.bias", UNDER_SOFTMAX),
        Zero("g.bias", "the weights of a softmax sum to one, so this is a bias before the BatchNorm", ("train",)),
        Zero("output.bias", BEFORE_NORM, ("train",)),
    ),
    "nonlocal(pairwise='dot_product', subsample=True)": (Zero("output.bias", BEFORE_NORM, ("train",)),),
    "nonlocal(pairwise='concatenation', subsample=True, norm=False)": (),
    "sagan(value_reduction=None, bias=True)": (Zero("key.bias", UNDER_SOFTMAX),),
    "gc": (Zero("mask.bias", UNDER_SOFTMAX),),
    "external": (Zero("conv1.bias", UNDER_SOFTMAX),),
}

# On a map of one pixel, in addition.
ONE_PIXEL_ZEROS: dict[str, tuple[Zero, ...]] = {
    "aaconv": (Zero("attention.rel_?", ONE_WEIGHT),),
    "bot": (Zero("rel_?", ONE_WEIGHT), Zero("pos_?", ONE_WEIGHT)),
    "halo": (Zero("rel_?", ONE_WEIGHT), Zero("q.weight", ONE_WEIGHT)),
    "nonlocal": (Zero("theta.*", ONE_WEIGHT), Zero("phi.*", ONE_WEIGHT)),
    "nonlocal(pairwise='dot_product', subsample=True)": (),
    "nonlocal(pairwise='concatenation', subsample=True, norm=False)": (),
    "sagan": (Zero("query.*", ONE_WEIGHT), Zero("key.*", ONE_WEIGHT)),
    "gc": (Zero("mask.*", ONE_WEIGHT),),
    "psa": (Zero("channel_query.*", ONE_WEIGHT),),
    "psa(layout='sequential', form='authors')": (
        Zero("channel_query.*", ONE_WEIGHT),
        Zero("spatial_value.*", ONE_WEIGHT),
    ),
    "psa(layout='parallel', form='authors')": (
        Zero("channel_query.*", ONE_WEIGHT),
        Zero("spatial_query.*", ONE_WEIGHT),
        Zero("spatial_value.*", ONE_WEIGHT),
    ),
    "external": (
        Zero("conv1.*", ONE_WEIGHT),
        Zero("memory.keys.*", ONE_WEIGHT),
        Zero("memory.values.*", "so the same for all samples, before a BatchNorm", ("train",)),
        Zero("conv2.*", "so the same for all samples, before a BatchNorm", ("train",)),
        Zero("norm.weight", "so 0 when normalised", ("train",)),
    ),
    "sge": (Zero("weight", ONE_VALUE),),
    "shuffle": (Zero("norm_weight", ONE_VALUE),),
    "coordconv": (Zero("coordinates.weight", ONE_PLACE),),
    "stn": (Zero("localization.*", ONE_PIXEL),),
    "residual_mask(activation='spatial')": (Zero("*", CONSTANT),),
}

# With so few channels, in addition: a LayerNorm or a softmax is left with one unit.
ONE_UNIT_ZEROS: dict[tuple[str, int], tuple[Zero, ...]] = {
    ("gc", 8): (Zero("mask.*", ONE_VALUE), Zero("fuse.*.0.*", ONE_VALUE), Zero("fuse.*.1.weight", ONE_VALUE)),
    ("gc(fuse='add+mul')", 31): (
        Zero("mask.*", ONE_VALUE),
        Zero("fuse.*.0.*", ONE_VALUE),
        Zero("fuse.*.1.weight", ONE_VALUE),
    ),
    ("psa", 1): (
        Zero("channel_query.*", ONE_VALUE),
        Zero("channel_value.*", ONE_VALUE),
        Zero("channel_up.0.*", ONE_VALUE),
        Zero("channel_up.1.weight", ONE_VALUE),
        Zero("spatial_query.*", ONE_WEIGHT),
    ),
    ("psa", 3): (Zero("spatial_query.*", ONE_WEIGHT),),
    ("psa(layout='sequential', form='authors')", 8): (
        Zero("channel_query.*", ONE_VALUE),
        Zero("channel_value.*", ONE_VALUE),
        Zero("channel_up.0.*", ONE_VALUE),
        Zero("channel_up.1.weight", ONE_VALUE),
    ),
}


@dataclass(frozen=True)
class ZeroRows:
    """Part of a parameter: on a map of this size, these entries along an axis."""

    variant: str
    size: tuple[int, int]
    parameter: str
    axis: int
    rows: tuple[int, ...]
    reason: str


FARTHER = "offsets that do not occur on a map smaller than feature_size"
UNREAD = "the first 2 halo_size rows are there so that the tables of others fit"
SMALL = "bot(kv_heads=1, scale_positions=False, feature_size=(7, 5))"
WHOLE = "lambda(context=None, feature_size=(7, 5), intra_depth=2)"

ZERO_ROWS = [
    ZeroRows(SMALL, (7, 5), "rel_h", 0, (), "every offset occurs"),
    ZeroRows(SMALL, (4, 3), "rel_h", 0, (0, 1, 2, 10, 11, 12), FARTHER),
    ZeroRows(SMALL, (4, 3), "rel_w", 0, (0, 1, 7, 8), FARTHER),
    ZeroRows(WHOLE, (4, 3), "embeddings", 2, (0, 1, 2, 10, 11, 12), FARTHER),
    ZeroRows(WHOLE, (4, 3), "embeddings", 3, (0, 1, 7, 8), FARTHER),
    ZeroRows("aaconv", (13, 11), "attention.rel_h", 0, (0, 26), FARTHER),
    ZeroRows("aaconv", (13, 11), "attention.rel_w", 0, (0, 1, 2, 24, 25, 26), FARTHER),
    ZeroRows("halo", (22, 22), "rel_h", 0, (0, 1, 2, 3, 4, 5), UNREAD),
    ZeroRows("halo(block_size=4, halo_size=1, proj=True)", (12, 12), "rel_h", 0, (0, 1), UNREAD),
    ZeroRows("halo(block_size=4, halo_size=1, proj=True)", (12, 12), "rel_w", 0, (0, 1), UNREAD),
]


def zero_by_mathematics(
    variant: Variant, parameter: str, mode: str, *, one_pixel: bool = False, one_unit: int | None = None
) -> bool:
    """Whether a parameter's gradient is zero on any map, or on that of one pixel, or with so few channels."""
    zeros = _of(ZEROS, variant)
    if one_pixel:
        zeros += _of(ONE_PIXEL_ZEROS, variant)
    if one_unit is not None:
        zeros += ONE_UNIT_ZEROS[str(variant), one_unit]
    return any(mode in zero.modes and fnmatchcase(parameter, zero.parameters) for zero in zeros)


def _of(table: dict[str, tuple[Zero, ...]], variant: Variant) -> tuple[Zero, ...]:
    return table.get(str(variant), table.get(variant.name, ()))
