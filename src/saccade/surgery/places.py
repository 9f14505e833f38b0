"""Blocks, stages and the input of a traced host: the places that a module's class does not tell."""

# B batch, C channels, H W the map

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

from torch import nn

from saccade.surgery.attach import class_of, runs_its_children
from saccade.surgery.graph import Graph
from saccade.surgery.layouts import NCHW, NHWC
from saccade.surgery.residual import Junction, residual_junctions, unread_junctions
from saccade.surgery.trace import Value


class Places:
    """Calls of a trace by what they are in the network; numbers are those of ``graph.trace.calls``.

    Args:
        graph: of the host.
        modules: the host's, by path.
    """

    def __init__(self, graph: Graph, modules: Mapping[str, nn.Module]) -> None:
        self.graph = graph
        self.calls = graph.trace.calls
        self.modules = modules

    @cached_property
    def junctions(self) -> list[Junction]:
        return residual_junctions(self.graph)

    @cached_property
    def unread(self) -> Counter[str]:
        """Joins of a branch and the identity that are no additions, by operation."""
        return unread_junctions(self.graph)

    @cached_property
    def stages(self) -> list[int]:
        """The calls that give the last map of each resolution: the last block's, else any module's.

        Only maps that all data for the deepest map passes: neither pooled ones inside of attention, nor a decoder's;
        nor maps of a single position.
        """
        blocks = self._given(self.blocks)
        best: dict[tuple[int, int], tuple[bool, int, int]] = {}
        for number, call in enumerate(self.calls):
            size = self._size(number) if self._can_carry(number) else None
            if call.given is None or size is None or size == (1, 1) or not self._on_the_way >> call.given & 1:
                continue
            if call.parent >= 0 and not isinstance(self.modules[call.path], nn.Sequential):
                # Of the modules that give one value, the outermost was called first.
                entry = (call.given in blocks, call.given, -number)
                best[size] = max(best.get(size, entry), entry)
        return [-number for *_, number in sorted(best.values(), key=lambda entry: entry[1])]

    @cached_property
    def blocks(self) -> list[int]:
        """The calls of blocks: those of modules that hold a residual junction, and of others like them.

        Others are the innermost modules with two convolutions and more that all data passes. In a network with a head
        that convolves (it is no classifier), those after the last residual block are taken for the head.
        """
        residual = self._residual_blocks
        last = len(self.graph.values)
        if residual and self._classifier_output() is None:
            last = max(self.calls[number].end for number in residual)
        plain = [
            number
            for number, call in enumerate(self.calls)
            if call.given is not None and call.parent >= 0 and call.end <= last and self._can_carry(number)
            if self._on_the_way >> call.given & 1 and self._convolutions(number) >= 2
        ]
        inner = [
            number
            for number in plain
            if not any(self._within(other, number) for other in (*plain, *residual))
            and not any(self._within(number, other) or number == other for other in residual)
        ]
        found = sorted((*residual, *inner), key=lambda number: self.calls[number].end)
        return found if len(found) > 1 else []  # a single one is the network

    @cached_property
    def input(self) -> int | None:
        """The first call of a module without children on an image, a map that comes from the input."""
        holders = {call.parent for call in self.calls}
        for number, call in enumerate(self.calls):
            if call.taken is not None and number not in holders:
                value = self.graph.values[call.taken]
                if value.from_data and len(value.shape) == 4:
                    return number
        return None

    def ending(self, number: int) -> int:
        """For a call of a container such as ``nn.Sequential``, that of the member that gives its output."""
        while runs_its_children(self.modules[self.calls[number].path]):
            given = self.calls[number].given
            inner = [n for n, call in enumerate(self.calls) if call.parent == number and call.given == given]
            if not inner:
                return number
            number = inner[-1]
        return number

    @cached_property
    def _residual_blocks(self) -> list[int]:
        """The outermost calls of every class of module that holds a residual junction."""
        owners = {class_of(self.modules[self.calls[owner].path]) for owner in self._owners()} - {nn.Sequential}
        found = [
            number
            for number, call in enumerate(self.calls)
            if call.parent >= 0 and self._size(number) is not None and class_of(self.modules[call.path]) in owners
        ]
        return [number for number in found if not any(self._within(number, other) for other in found)]

    def _owners(self) -> set[int]:
        """Of each residual junction, the innermost call that holds the addition and the start of the branch."""
        owners = set()
        for junction in self.junctions:
            call = self.graph.holder(junction.value, self.graph.only(junction.branch, junction.shortcut))
            if call >= 0 and self.calls[call].parent >= 0:
                owners.add(call)
        return owners

    @cached_property
    def _on_the_way(self) -> int:
        """The set of values that all data for the deepest map passes."""
        deepest = self._deepest()
        return 0 if deepest is None else self.graph.dominators[deepest]

    def _deepest(self) -> int | None:
        """A classifier's output; of anything else the last of its smallest maps, a residual block's if it has any."""
        if (output := self._classifier_output()) is not None or self.input is None:
            return output
        batch = self.graph.values[self.calls[self.input].taken or 0].shape[0]
        times = Counter(call.path for call in self.calls)
        # A head that runs on every level of a pyramid, or on crops of the image, is not part of the way down.
        once = [number for number, call in enumerate(self.calls) if times[call.path] == 1]
        maps = []
        for number in self._residual_blocks or once:
            given, size = self.calls[number].given, self._size(number)
            if given is not None and size not in (None, (1, 1)) and self.graph.values[given].shape[0] == batch:
                maps.append((size[0] * size[1], -given))
        return -min(maps)[1] if maps else None

    def _classifier_output(self) -> int | None:
        outputs = [self.graph.values[index] for index in self.graph.trace.outputs]
        return outputs[0].index if len(outputs) == 1 and len(outputs[0].shape) == 2 else None

    def _can_carry(self, number: int) -> bool:
        """Whether an edit can go to the module of a call, or to a member that gives the same."""
        return not runs_its_children(self.modules[self.calls[self.ending(number)].path])

    def _given(self, numbers: list[int]) -> set[int | None]:
        return {self.calls[number].given for number in numbers}

    def _size(self, number: int) -> tuple[int, int] | None:
        """(H, W) of what a call gave, or None if that was no map made from the input."""
        given = self.calls[number].given
        return None if given is None else map_size(self.graph.values[given])

    def _convolutions(self, number: int) -> int:
        """How often a call multiplies by filters at more than one position."""
        inside = self.graph.values[self.calls[number].first : self.calls[number].end]
        return sum(value.filters and map_size(value) not in (None, (1, 1)) for value in inside)

    def _within(self, inner: int, outer: int) -> bool:
        """Whether one call happened during another."""
        while inner >= 0:
            inner = self.calls[inner].parent
            if inner == outer:
                return True
        return False


def map_size(value: Value) -> tuple[int, int] | None:
    """(H, W) of a value, or None if it is no map made from the input."""
    if not value.from_data or 0 in value.shape or value.axes not in (NCHW, NHWC):
        return None
    height = value.axes.index("H")
    return value.shape[height], value.shape[height + 1]
