"""What an adapter gives: our module for a golden file, and where each of the reference's tensors is in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Source = tuple[str, str, str]  # module, repository, path
Shapes = Mapping[str, tuple[int, ...]]  # of the tensors of a file: "input", "param.weight", ...


@dataclass(frozen=True)
class Slot:
    """The place of a reference's tensor in ours: a name, and where layouts differ, which rows or in which order."""

    name: str
    rows: tuple[int, int] | None = None
    """From which row of our tensor to which the reference's is, where it keeps several tensors for one of ours."""
    permute: Callable[[Tensor], Tensor] = lambda tensor: tensor
    """The reference's tensor (or its gradient) in our order, or our part of it; it may do nothing else."""

    def of(self, tensor: Tensor) -> Tensor:
        """The part of our tensor."""
        return tensor if self.rows is None else tensor[slice(*self.rows)]


@dataclass(frozen=True)
class Adapted:
    module: nn.Module
    names: Mapping[str, str | Slot | tuple[Slot, ...]]
    """Where each of the reference's tensors is in ours; several places for one that we keep in parts."""
    aux: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Further outputs that a reference's file holds, from the input."""
    constants: frozenset[str] = frozenset()
    """The reference's buffers for which ours has nothing to load: index tables, counters that never count."""

    def slots(self, name: str) -> tuple[Slot, ...]:
        place = self.names[name]
        place = Slot(place) if isinstance(place, str) else place
        return place if isinstance(place, tuple) else (place,)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a reference: we differ from it by at least ``distance``, and agree once the fault is ours."""

    reason: str
    distance: float
    reproduce: Callable[[Any, Tensor], Tensor]


class Through(nn.Module):
    """A module, run by a function of it and of the input: for references that do only a part, or in another layout."""

    def __init__(self, module: nn.Module, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.module, x)


def layer_names(theirs: Mapping[str, str], module: nn.Module) -> dict[str, str]:
    """Every tensor of our module by the reference's name; ``theirs`` maps our layers' paths to the reference's."""
    names = {}
    for name in module.state_dict():
        layer, _, kind = name.rpartition(".")
        names[f"{theirs[layer]}.{kind}"] = name
    return names


def size_pair(size: int | list[int]) -> tuple[int, int]:
    """(height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def multiple_of_8(value: int) -> int:
    """timm's rounding of a width: the nearest multiple of 8, at least 8, and not below nine tenths of the value."""
    nearest = max(8, (value + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * value else nearest
