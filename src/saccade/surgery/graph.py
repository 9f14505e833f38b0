"""Questions about a trace: who reads a value, what it comes from, what every way to it passes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from saccade.surgery.trace import Trace, Value


class Graph:
    """Questions about a trace's values: who reads whom, and what comes from what."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.values = trace.values

    @cached_property
    def readers(self) -> list[list[int]]:
        """Of every value, the values computed from it."""
        readers: list[list[int]] = [[] for _ in self.values]
        for value in self.values:
            for source in dict.fromkeys(value.inputs):
                readers[source].append(value.index)
        return readers

    @cached_property
    def ancestors(self) -> list[int]:
        """Of every value, the set of it and all values that it comes from, as the bits of an integer."""
        sets: list[int] = []
        for value in self.values:
            bits = 1 << value.index
            for source in value.inputs:
                bits |= sets[source]
            sets.append(bits)
        return sets

    @cached_property
    def from_data(self) -> int:
        """The set of values that depend on the host's input."""
        return sum(1 << value.index for value in self.values if value.from_data)

    @cached_property
    def filtering(self) -> int:
        """The set of convolutions and linear layers."""
        return sum(1 << value.index for value in self.values if value.filters)

    def data_inputs(self, value: Value) -> list[int]:
        """The values that depend on the host's input among those that a value is computed from."""
        return [source for source in value.inputs if self.values[source].from_data]

    def only(self, a: int, b: int) -> int:
        """The set of what ``a`` comes from and ``b`` does not."""
        return self.ancestors[a] & ~self.ancestors[b] & self.from_data

    @cached_property
    def dominators(self) -> list[int]:
        """Of every value that depends on the input, the set of values that all ways from the input to it pass."""
        sets: list[int] = []
        for value in self.values:
            bits = -1  # every value, until one input says otherwise
            for source in self.data_inputs(value):
                bits &= sets[source]
            sets.append((0 if bits == -1 else bits) | 1 << value.index)
        return sets

    def holder(self, index: int, branch: int) -> int:
        """The innermost call that holds a value and the first of a set of values before it; -1 for none."""
        first = (branch & -branch).bit_length() - 1
        call = self.values[index].call
        while call >= 0 and not self.trace.inside(first, call):
            call = self.trace.calls[call].parent
        return call

    def members(self, bits: int) -> Iterator[Value]:
        """The values of a set."""
        while bits:
            lowest = bits & -bits
            yield self.values[lowest.bit_length() - 1]
            bits ^= lowest
