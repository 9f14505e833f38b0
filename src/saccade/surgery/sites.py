"""Where an edit can go: the sites of a host by kind, from one traced forward."""

# B batch, C channels, H W the map

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

from torch import nn

from saccade._checks import nearest
from saccade.errors import UsageError
from saccade.surgery.attach import Edits, replaced_by, runs_its_children
from saccade.surgery.example import arguments, check_host, default_example, host_modules, trace_host
from saccade.surgery.graph import Graph
from saccade.surgery.layouts import NHWC, Axes
from saccade.surgery.places import Places
from saccade.surgery.trace import Call

KINDS = ("residual", "conv", "depthwise", "pointwise", "norm", "block", "stage", "input")
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class Site:
    """A place in a host where an edit can go, and the largest map that was seen there.

    ``path`` is the module's first where a host that shares modules has it under several. ``kind`` is one of
    ``residual`` (the end of a residual branch, before the addition), ``conv`` (a k x k convolution, k >= 2, groups =
    1), ``depthwise``, ``pointwise`` (1 x 1), ``norm``, ``block`` (a block's output), ``stage`` (the last map of a
    resolution), ``input`` (before the module that takes the images), or ``module`` (named by path, of none of those).
    """

    path: str
    kind: str
    channels: int
    height: int
    width: int
    stride: int
    """How many pixels of the input a position stands for, down a column."""
    layout: str = "nchw"
    """``"nhwc"`` where the module gives (B, H, W, C); attention then sees the map permuted."""
    calls: int = 1
    """How often the host calls the module in one forward; one attention serves all calls."""
    in_size: tuple[int, int] = (0, 0)
    """(H, W) of what the module takes; (0, 0) where it takes no map."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width

    @property
    def positions(self) -> int:
        """H W."""
        return self.height * self.width


class Sites(Sequence[Site]):
    """The sites of a host in the order of its modules; prints as a table.

    ``notes`` says what one would otherwise miss: the input size and where it comes from, additions that no module can
    be edited for, modules called several times.
    """

    def __init__(self, sites: Sequence[Site], notes: Sequence[str] = ()) -> None:
        self._sites = tuple(sites)
        self.notes = tuple(notes)

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> Sites: ...
    def __getitem__(self, index: int | slice) -> Site | Sites:
        return Sites(self._sites[index], self.notes) if isinstance(index, slice) else self._sites[index]

    def __len__(self) -> int:
        return len(self._sites)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sites) and self._sites == other._sites

    def __hash__(self) -> int:
        return hash(self._sites)

    def counts(self) -> dict[str, int]:
        """How many sites there are of each kind, of those that there are."""
        return dict(Counter(site.kind for site in self))

    def __str__(self) -> str:
        rows = [("path", "kind", "channels", "map", "stride", "")]
        for site in self:
            remarks = [site.layout] * (site.layout != "nchw") + [f"called {site.calls} times"] * (site.calls > 1)
            size = f"{site.height} x {site.width}"
            rows.append((site.path, site.kind, str(site.channels), size, str(site.stride), ", ".join(remarks)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        table = "\n".join(lines) if len(self) else "no sites"
        return "\n\n".join((table, "\n".join(self.notes)) if self.notes else (table,))

    __repr__ = __str__


class Survey:
    """A host with the graph of one forward: what its sites are read from."""

    def __init__(self, model: nn.Module, example_input: Any = None) -> None:
        check_host(model)
        self.model = model
        example, reason = default_example(model) if example_input is None else (example_input, "")
        self.args = arguments(example)
        self.modules = host_modules(model)
        self.graph = Graph(trace_host(model, self.args))
        self.places = Places(self.graph, self.modules)
        shown = next((v.shape for v in self.graph.values if v.op == "input" and len(v.shape) in (3, 4)), None)
        size = " x ".join(map(str, shown[-3:])) if shown else "no image"
        self.input_size = shown[-2:] if shown else None
        self.notes = [f"Maps for an input of {size} ({reason or 'the example_input given'})."]

    @cached_property
    def calls(self) -> dict[str, list[int]]:
        """The calls of every module, by path."""
        calls: dict[str, list[int]] = {path: [] for path in self.modules}
        for number, call in enumerate(self.graph.trace.calls):
            calls[call.path].append(number)
        return calls

    @cached_property
    def sites(self) -> Sites:
        """Every site of every kind but ``module``."""
        by_kind = {
            "residual": self._residual(),
            "block": self._calls_as_sites("block", self.places.blocks),
            "stage": self._calls_as_sites("stage", self.places.stages),
            "input": self._input(),
        } | self._leaves()
        if reason := self._no_maps(by_kind):
            return Sites((), (*self.notes, reason))
        order = {path: position for position, path in enumerate(self.modules)}
        found = [site for kind in KINDS for site in by_kind[kind]]
        found.sort(key=lambda site: (KINDS.index(site.kind), order[site.path]))
        return Sites(found, self.notes)

    def _no_maps(self, by_kind: dict[str, list[Site]]) -> str:
        """Why the host has no site, if it has none."""
        name = type(self.model).__name__
        convs = [site for kind in ("conv", "depthwise", "pointwise") for site in by_kind[kind]]
        if not convs:
            others = {type(m).__name__ for m in self.modules.values() if isinstance(m, nn.modules.conv._ConvNd)}
            found = f"its convolutions are {' and '.join(sorted(others))}" if others else "it has none"
            return f"{name} has no site: attention goes to maps of 2-D convolutions (B, C, H, W), and {found}."
        conv = self.modules[convs[0].path]
        if (
            len(convs) == 1
            and not by_kind["residual"]
            and isinstance(conv, nn.Conv2d)
            and conv.kernel_size == conv.stride
        ):
            return (
                f"{name} has no convolutional site: its one convolution ({convs[0].path!r}) cuts the image into "
                "patches, and what follows are tokens, not maps; it has its attention already."
            )
        return ""

    def at_path(self, path: str, kind: str = "module", axes: Axes | None = None) -> Site:
        """The site at a module, which must have given a map.

        Raises:
            UsageError: a module that was not called, or gave no map of shape (B, C, H, W), or maps of several widths.
        """
        calls = [self.graph.trace.calls[number] for number in self.calls[path]]
        if not calls:
            raise UsageError(f"{path!r} was not called when the host ran, so an edit there would do nothing")
        maps = [(self._map(call, axes), call) for call in calls]
        if strange := next((call for found, call in maps if found is None), None):
            raise UsageError(
                f"{path!r} does not give a map of shape (B, C, H, W) but {strange.gives}; choose a module that does"
            )
        sized = [(found, call) for found, call in maps if found is not None]
        channels = sorted({found[0] for found, _ in sized})
        if len(channels) > 1:
            raise UsageError(
                f"{path!r} is called {len(calls)} times and gives maps of {' and '.join(map(str, channels))} channels; "
                "an edit serves one number of them: choose another module"
            )
        (count, height, width, layout), call = max(sized, key=lambda entry: entry[0][1] * entry[0][2])
        return Site(path, kind, count, height, width, self._stride(height), layout, len(calls), self._taken(call))

    def member(self, path: str) -> str:
        """The path itself, or of a container that runs its children one by one, that of the member that ends it.

        Raises:
            UsageError: an empty container; one that makes its output itself (a dense block, which joins all).
        """
        module = self.modules[path]
        if not runs_its_children(module):
            return path
        members = [name for name, member in module._modules.items() if not isinstance(member, Edits)]
        if not members:
            raise UsageError(f"{path!r} is an empty {type(module).__name__}: nothing flows through a module there")
        if not self.calls[path]:
            return self.member(f"{path}.{members[-1]}")  # the host runs the members itself
        ended = self.graph.trace.calls[self.places.ending(self.calls[path][0])].path
        if runs_its_children(self.modules[ended]):
            raise UsageError(
                f"{path!r} calls whatever modules it holds, and none of them gives its output, so that attention has "
                "no place there; name another module"
            )
        return ended

    def resolve(self, path: str, mode: str) -> Site:
        """The site of an edit of a plan.

        Raises:
            UsageError: a path that the host lacks; what :meth:`at_path` refuses.
        """
        try:
            module = self.model.get_submodule(path)
        except AttributeError:
            raise UsageError(f"the host has no module at {path!r}{nearest(path, self.modules)}") from None
        path = next(first for first, other in self.modules.items() if other is module)
        known = [site for site in self.sites if site.path == path and (site.kind == "input") == (mode == "before")]
        return known[0] if known else self.at_path(path)

    def _map(self, call: Call, axes: Axes | None = None) -> tuple[int, int, int, str] | None:
        """Channels, height, width and layout of what a call gave, or None if that was no map."""
        if call.given is None:
            return None
        value = self.graph.values[call.given]
        return map_of(value.shape, value.axes or axes)

    def _taken(self, call: Call) -> tuple[int, int]:
        value = None if call.taken is None else self.graph.values[call.taken]
        found = None if value is None else map_of(value.shape, value.axes)
        return (0, 0) if found is None else found[1:3]

    def _stride(self, height: int) -> int:
        return max(1, round(self.input_size[0] / height)) if self.input_size and height else 1

    def _residual(self) -> list[Site]:
        found: dict[str, Site] = {}
        without: Counter[str] = Counter()
        for junction in self.places.junctions:
            if junction.call is None:
                without[junction.reason] += 1
            else:
                path = self.graph.trace.calls[junction.call].path
                found[path] = self.at_path(path, "residual", junction.axes)
        self.notes += [f"{count} residual additions without a site: {reason}." for reason, count in without.items()]
        return list(found.values())

    def _calls_as_sites(self, kind: str, calls: Sequence[int]) -> list[Site]:
        paths = dict.fromkeys(self.graph.trace.calls[self.places.ending(call)].path for call in calls)
        return [site for path in paths if (site := self._site_or_none(path, kind))]

    def _site_or_none(self, path: str, kind: str) -> Site | None:
        try:
            return self.at_path(path, kind)
        except UsageError:
            return None  # not every module is a site: it gave no map, or maps of several widths

    def _leaves(self) -> dict[str, list[Site]]:
        leaves: dict[str, list[Site]] = {kind: [] for kind in ("conv", "depthwise", "pointwise", "norm")}
        stages = self._calls_as_sites("stage", self.places.stages)
        least = min((2, *(site.positions for site in stages)))
        for path, module in self.modules.items():
            kind = kind_of(module)
            site = self._site_or_none(path, kind) if kind and self.calls[path] else None
            # A 1 x 1 convolution of a single position is a linear layer, of a squeeze or a head.
            if site is not None and not (kind in ("pointwise", "norm") and site.positions < least):
                leaves[site.kind].append(site)
        return leaves

    def _input(self) -> list[Site]:
        number = self.places.input
        if number is None:
            return []
        call = self.graph.trace.calls[number]
        taken = None if call.taken is None else self.graph.values[call.taken]
        found = None if taken is None else map_of(taken.shape, taken.axes)
        if found is None:
            return []
        channels, height, width, layout = found
        times = len(self.calls[call.path])
        return [Site(call.path, "input", channels, height, width, 1, layout, times, (height, width))]


def kind_of(module: nn.Module) -> str | None:
    """The kind of site that a module is by its class, or None."""
    if replaced := replaced_by(module):
        module = replaced[0]
    if isinstance(module, nn.Conv2d):
        if module.groups == 1:
            return "conv" if max(module.kernel_size) > 1 else "pointwise"
        return "depthwise" if module.groups == module.in_channels else None
    if isinstance(module, NORMS):
        return "norm"
    # Norms of other libraries' own making go by their name; a convolution with its norm, or a whole block, is none.
    named = "Norm" in type(module).__name__ and not isinstance(module, nn.Sequential)
    holds = (type(part) for part in host_modules(module).values())
    return (
        "norm" if named and not any(issubclass(part, nn.modules.conv._ConvNd | nn.Linear) for part in holds) else None
    )


def map_of(shape: tuple[int, ...], axes: Axes | None) -> tuple[int, int, int, str] | None:
    """(C, H, W, layout) of a tensor's shape, or None if it is no map. Axes that are not known are B C H W."""
    if len(shape) != 4 or 0 in shape:
        return None
    if axes == NHWC:
        return shape[3], shape[1], shape[2], "nhwc"
    return shape[1], shape[2], shape[3], "nchw"
