"""The gradients that mathematics makes zero, in one place: mechanism, parameters (a glob), mode, reason."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Zero:
    parameters: str
    reason: str
    modes: tuple[str, ...] = ("train", "eval")


BEFORE_NORM = "a BatchNorm in train mode takes the mean away, and a bias with it"
UNDER_SOFTMAX = "a number added to all logits of a softmax changes nothing"

ZEROS: dict[str, tuple[Zero, ...]] = {
    "gam": (Zero("spatial.[03].bias", BEFORE_NORM, ("train",)),),
    "bam": (
        Zero("channel.[03].bias", BEFORE_NORM, ("train",)),
        Zero("spatial.[0369].bias", BEFORE_NORM, ("train",)),
    ),
    "coord": (Zero("reduce.bias", BEFORE_NORM, ("train",)),),
    "psa": (Zero("channel_query.bias", UNDER_SOFTMAX),),
    "nonlocal": (
        Zero("phi.bias", UNDER_SOFTMAX),
        Zero("g.bias", "the weights of a softmax sum to one, so this is a bias before the BatchNorm", ("train",)),
        Zero("output.bias", BEFORE_NORM, ("train",)),
    ),
    "gc": (Zero("mask.bias", UNDER_SOFTMAX),),
    "external": (Zero("conv1.bias", UNDER_SOFTMAX),),
}


def zero_by_mathematics(name: str, parameter: str, mode: str) -> bool:
    return any(mode in zero.modes and fnmatchcase(parameter, zero.parameters) for zero in ZEROS.get(name, ()))
