"""Residual junctions of a traced host: where a branch is added to a shortcut, and which module ends the branch."""

# B batch, C channels, H W the map

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from saccade.surgery.graph import Graph
from saccade.surgery.layouts import NCHW, NHWC, Axes
from saccade.surgery.trace import WRITTEN, Trace, Value

ADDITIONS = ("aten.add", "aten.add_")
# Other ways to join a branch with its shortcut; they are told, and are no sites.
UNREAD = (
    "aten.sub",
    "aten.sub_",
    "aten.rsub",
    "aten.lerp",
    "aten.lerp_",
    "aten.addcmul",
    "aten.addcmul_",
    "aten.stack",
)
SCALINGS = ("aten.mul", "aten.mul_", "aten.div", "aten.div_")
VIEWS = ("aten.view", "aten._unsafe_view", "aten._reshape_alias", "aten.permute", "aten.transpose", "aten.expand",
         "aten.unsqueeze", "aten.squeeze", "aten.alias", "aten.clone", "aten._to_copy", "aten.detach")  # fmt: skip
SLICES = ("aten.slice", "aten.split", "aten.split_with_sizes", "aten.narrow", "aten.select", "aten.unbind")
# A shortcut without filters pools or pads; one with filters is a pooling, a convolution, a normalisation, a scaling.
LONGEST_PLAIN, LONGEST_PROJECTION = 3, 4


@dataclass(frozen=True)
class Junction:
    """An addition of maps: the value, the operand that ends the residual branch, and the other.

    ``call`` is the module's call whose output ends the branch, and ``axes`` that output's; without one, ``reason``.
    """

    value: int
    branch: int
    shortcut: int
    call: int | None = None
    axes: Axes | None = None
    reason: str = ""


def residual_junctions(graph: Graph) -> list[Junction]:
    """Every true residual junction: a branch with filters beside an identity or a projection by one convolution.

    No junction: ties (both sides hold as many convolutions), sums of three and more, attention logits, the sums of
    feature pyramids and decoders (a side was upsampled), sums of different slices of one map (Res2Net's).
    """
    found: list[Junction] = []
    for value in graph.values:
        if len(value.shape) == 4 and _adds_maps(graph, value) and not _is_part_of_a_sum(graph, value):
            sides = _sides(graph, value)
            if sides is not None and not _feeds_softmax(graph, value):
                found.append(_hooked(graph, value, *sides))
    return found


def unread_junctions(graph: Graph) -> Counter[str]:
    """How many branches meet the identity in another operation than an addition, by operation."""
    found: Counter[str] = Counter()
    for value in graph.values:
        sources = graph.data_inputs(value) if value.op in UNREAD else []
        if not sources or len(graph.values[sources[0]].shape) != 4:
            continue
        if value.op == "aten.stack" and not _is_reduced(graph, value):
            continue
        sides = _sides(graph, value, graph.values[sources[0]].shape)
        if sides is not None and graph.ancestors[sides[0]] >> sides[1] & 1:
            found[value.op] += 1
    return found


def _is_reduced(graph: Graph, value: Value) -> bool:
    return any(graph.values[reader].op in ("aten.sum", "aten.mean") for reader in graph.readers[value.index])


def _sides(graph: Graph, value: Value, shape: tuple[int, ...] | None = None) -> tuple[int, int] | None:
    """(branch, shortcut) of an addition, or None where it is no residual junction."""
    shape = value.shape if shape is None else shape
    sources = [source for source in graph.data_inputs(value) if graph.values[source].shape == shape]
    if len(sources) != 2 or sources[0] == sources[1] or any(_is_sum_of_its_own(graph, source) for source in sources):
        return None
    a, b = sources
    only = {a: graph.only(a, b), b: graph.only(b, a)}
    filters = {side: (only[side] & graph.filtering).bit_count() for side in sources}
    if filters[a] == filters[b]:
        return None
    branch, shortcut = (a, b) if filters[a] > filters[b] else (b, a)
    if not _is_shortcut(graph, only[shortcut], filters[shortcut]) or not _share_a_map(graph, branch, shortcut):
        return None
    if only[shortcut] and {graph.values[reader].op for reader in graph.readers[value.index]} == {"aten.cat"}:
        return None  # one of the combinations within a cell (NASNet's)
    if any(_upsampled(graph, only[side], side) for side in sources):
        # Two levels of a pyramid or a decoder, unless the way down and up is one module's, beside an identity.
        return None if only[shortcut] or not _is_one_module(graph, value, only[branch]) else (branch, shortcut)
    return branch, shortcut


def _is_one_module(graph: Graph, value: Value, branch: int) -> bool:
    """Whether a single call, within the one that adds, makes all filtered maps of a branch."""
    owner = graph.holder(value.index, branch)
    makers = set()
    for inside in graph.members(branch & graph.filtering):
        call = inside.call
        while call >= 0 and graph.trace.calls[call].parent != owner:
            call = graph.trace.calls[call].parent
        makers.add(call)
    return len(makers) == 1 and -1 not in makers


def _is_shortcut(graph: Graph, only: int, filters: int) -> bool:
    # A batch norm gives three values, of which one is a map.
    steps = [value for value in graph.members(only) if value.op not in VIEWS and len(value.shape) == 4]
    if any(_takes_some_channels(graph, value) for value in steps):
        return False
    if not filters and any("norm" in value.op for value in steps):
        return False  # the normalised identity of a block that is to be re-parameterised (RepVGG's)
    if not filters:
        return len(steps) <= LONGEST_PLAIN
    # A depthwise convolution and a pointwise one are one, separable, convolution.
    full = sum(not _is_depthwise(graph, value) for value in steps if value.filters)
    return filters <= 2 and full <= 1 and len(steps) <= LONGEST_PROJECTION


def _is_depthwise(graph: Graph, value: Value) -> bool:
    weight = graph.values[value.inputs[1]] if value.op == "aten.convolution" else value
    return len(weight.shape) == 4 and weight.shape[1] == 1


def _takes_some_channels(graph: Graph, value: Value) -> bool:
    if value.op not in SLICES or value.axes is None:
        return False
    source = graph.values[value.inputs[0]]
    channels = value.axes.index("C") if "C" in value.axes else 1
    return len(source.shape) == len(value.shape) and source.shape[channels] > value.shape[channels]


def _share_a_map(graph: Graph, branch: int, shortcut: int) -> bool:
    """Whether the shortcut starts at a map that the branch starts at, too: an identity, not a constant of the host."""
    starts = [
        source
        for value in graph.members(graph.only(shortcut, branch))
        for source in graph.data_inputs(value)
        if graph.ancestors[branch] >> source & 1
    ]
    return bool(starts) or bool(graph.ancestors[branch] >> shortcut & 1)


def _is_sum_of_its_own(graph: Graph, source: int) -> bool:
    """Whether an operand is a sum of maps that nothing else reads: the addition then has three operands and more.

    A sum that a module of its own gives counts as that module's output.
    """
    value = graph.values[source]
    return (
        _adds_maps(graph, value)
        and len(graph.readers[source]) == 1
        and graph.values[graph.readers[source][0]].call == value.call
    )


def _is_part_of_a_sum(graph: Graph, value: Value) -> bool:
    if value.index in graph.trace.outputs or not _is_sum_of_its_own(graph, value.index):
        return False
    return _adds_maps(graph, graph.values[graph.readers[value.index][0]])


def _adds_maps(graph: Graph, value: Value) -> bool:
    shapes = [graph.values[operand].shape for operand in graph.data_inputs(value)]
    return value.op in ADDITIONS and shapes.count(value.shape) > 1


def _feeds_softmax(graph: Graph, value: Value) -> bool:
    pending = [value.index]
    while pending:
        for reader in graph.readers[pending.pop()]:
            op = graph.values[reader].op
            if "softmax" in op:
                return True
            if op in VIEWS or op in SCALINGS:
                pending.append(reader)
    return False


def _upsampled(graph: Graph, only: int, side: int) -> bool:
    """Whether all ways to an operand pass an operator that enlarges the map: it comes from a deeper level.

    A gate that is made at a lower resolution has a way around it.
    """
    return any(_enlarges(graph, value) for value in graph.members(only & graph.dominators[side]))


def _enlarges(graph: Graph, value: Value) -> bool:
    if "upsample" in value.op or "pixel_shuffle" in value.op:
        return True
    if value.op != "aten.convolution":
        return False
    # A transposed convolution.
    source = graph.values[value.inputs[0]]
    return source.shape[-2] * source.shape[-1] * 2 <= value.shape[-2] * value.shape[-1]


def _hooked(graph: Graph, value: Value, branch: int, shortcut: int) -> Junction:
    """The junction with the module that ends its branch: walked back over scalings, permutes and slices."""
    at, reader, axes = branch, value.index, value.axes
    while True:
        others = [other for other in graph.readers[at] if other != reader]
        current = graph.values[at]
        if graph.values[reader].op in SLICES:
            others = [other for other in others if graph.values[other].op not in (*SLICES, WRITTEN)]
        if others:
            return _at_identity(graph, value, branch, shortcut, "the branch's output is read elsewhere, too")
        axes = current.axes or axes
        call = giving_call(graph.trace, at)
        if call is not None and not _only_scales(graph, call) and axes in (NCHW, NHWC):
            return Junction(value.index, branch, shortcut, call, axes)
        sources = graph.data_inputs(current)
        walkable = current.op in VIEWS or current.op in SCALINGS or current.op in SLICES
        if len(sources) != 1 or not walkable:
            return _at_identity(graph, value, branch, shortcut, f"no module gives the branch's output ({current.op})")
        # A scaling keeps the axes of what it scales; a view may not.
        at, reader, axes = sources[0], at, axes if current.op in SCALINGS else None


def _at_identity(graph: Graph, value: Value, branch: int, shortcut: int, reason: str) -> Junction:
    """Where no module computes the branch's end, one that hands it on (an unused drop path) can carry an edit, too."""
    times = Counter(call.path for call in graph.trace.calls)
    for number, call in enumerate(graph.trace.calls):
        hands_on = call.given == call.taken == branch and times[call.path] == 1
        if hands_on and call.parent >= 0 and value.axes in (NCHW, NHWC):
            return Junction(value.index, branch, shortcut, number, value.axes)
    return Junction(value.index, branch, shortcut, reason=reason)


def giving_call(trace: Trace, index: int) -> int | None:
    """The innermost call in which a value was computed, if the value is that call's output."""
    call = trace.values[index].call
    return call if call >= 0 and trace.calls[call].given == index else None


def _only_scales(graph: Graph, call: int) -> bool:
    """Whether a call does nothing but scale its input by a parameter: a layer scale."""
    inside = graph.values[graph.trace.calls[call].first : graph.trace.calls[call].end]
    data = [value for value in inside if value.from_data]
    return (
        any(value.op in SCALINGS for value in data)
        and all(value.op in SCALINGS or value.op in VIEWS for value in data)
        and all(len(graph.data_inputs(value)) == 1 for value in data)
    )
