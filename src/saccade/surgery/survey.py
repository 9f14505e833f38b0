"""A host with the graph of one traced forward, and the sites that are read from it."""

# B batch, C channels, H W the map

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from saccade._checks import nearest
from saccade.errors import UsageError
from saccade.surgery.attach import Edits, runs_its_children
from saccade.surgery.example import arguments, check_host, default_examples, host_modules, trace_host
from saccade.surgery.graph import Graph
from saccade.surgery.layouts import Axes
from saccade.surgery.places import Places
from saccade.surgery.plan import Edit
from saccade.surgery.sites import KINDS, NORMS, Site, Sites, kind_of, map_of
from saccade.surgery.trace import Trace


class Survey:
    """A host with the graph of one forward: what its sites are read from."""

    def __init__(self, model: nn.Module, example_input: Any = None) -> None:
        check_host(model)
        self.model = model
        self.args, traced, reason = _run(model, example_input)
        self.modules = host_modules(model)
        self.graph = Graph(traced)
        self.places = Places(self.graph, self.modules)
        shown = next((v.shape for v in self.graph.values if v.op == "input" and len(v.shape) in (3, 4)), None)
        size = " x ".join(map(str, shown[-3:])) if shown else "no image"
        self.input_size = shown[-2:] if shown else None
        self.notes = [f"Maps for an input of {size} ({reason})."]

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
        """The site at a module, which must have given a map; of kind ``input``, before it, must have taken one.

        Raises:
            UsageError: a module that was not called, or gave no map of shape (B, C, H, W), or maps of several widths.
        """
        verb = "take" if kind == "input" else "give"
        calls = [self.graph.trace.calls[number] for number in self.calls[path]]
        if not calls:
            raise UsageError(f"{path!r} was not called when the host ran, so an edit there would do nothing")
        maps = [(self._map(call.taken if kind == "input" else call.given, axes), call) for call in calls]
        if strange := next((call for found, call in maps if found is None), None):
            but = "" if kind == "input" else f" but {strange.gives}"
            raise UsageError(f"{path!r} does not {verb} a map of shape (B, C, H, W){but}; choose a module that does")
        sized = [(found, call) for found, call in maps if found is not None]
        channels = sorted({found[0] for found, _ in sized})
        if len(channels) > 1:
            raise UsageError(
                f"{path!r} is called {len(calls)} times and {verb}s maps of {' and '.join(map(str, channels))} "
                "channels; an edit serves one number of them: choose another module"
            )
        (count, height, width, layout), call = max(sized, key=lambda entry: entry[0][1] * entry[0][2])
        taken = self._map(call.taken)
        in_size = (0, 0) if taken is None else taken[1:3]
        return Site(path, kind, count, height, width, self._stride(height), layout, len(calls), in_size)

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

    def dtype(self, edit: Edit) -> torch.dtype | None:
        """The type of the maps that an edit meets, if they have one to compute in."""
        call = self.graph.trace.calls[self.calls[edit.site][0]]
        met = call.taken if edit.mode == "before" else call.given
        dtype = None if met is None else self.graph.values[met].dtype
        return dtype if dtype is not None and dtype.is_floating_point else None

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
        if mode == "before":
            return self.at_path(path, "input")
        known = [site for site in self.sites if site.path == path and site.kind != "input"]
        return known[0] if known else self.at_path(path)

    def _map(self, index: int | None, axes: Axes | None = None) -> tuple[int, int, int, str] | None:
        """Channels, height, width and layout of a value, or None if that is no map."""
        value = None if index is None else self.graph.values[index]
        return None if value is None else map_of(value.shape, value.axes or axes)

    def _stride(self, height: int) -> int:
        return max(1, round(self.input_size[0] / height)) if self.input_size and height else 1

    def _residual(self) -> list[Site]:
        found: dict[str, Site] = {}
        without: Counter[str] = Counter()
        for junction in self.places.junctions:
            path = None if junction.call is None else self.graph.trace.calls[junction.call].path
            site = None if path is None else self._site_or_none(path, "residual", junction.axes)
            if site is not None:
                found[site.path] = site
            else:
                without[junction.reason or "the module that ends the branch is called with several widths"] += 1
        self.notes += [f"{count} residual additions without a site: {reason}." for reason, count in without.items()]
        self.notes += [
            f"{count} residual branches without a site: {op} joins them with the identity, and only additions are read."
            for op, count in self.places.unread.items()
        ]
        return list(found.values())

    def _calls_as_sites(self, kind: str, calls: Sequence[int]) -> list[Site]:
        paths = dict.fromkeys(self.graph.trace.calls[self.places.ending(call)].path for call in calls)
        return [site for path in paths if (site := self._site_or_none(path, kind))]

    def _site_or_none(self, path: str, kind: str, axes: Axes | None = None) -> Site | None:
        try:
            return self.at_path(path, kind, axes)
        except UsageError:
            return None  # not every module is a site: it gave no map, or maps of several widths

    def _leaves(self) -> dict[str, list[Site]]:
        leaves: dict[str, list[Site]] = {kind: [] for kind in ("conv", "depthwise", "pointwise", "norm")}
        stages = self._calls_as_sites("stage", self.places.stages)
        least = min((2, *(site.positions for site in stages)))
        for path, module in self.modules.items():
            kind = kind_of(module)
            if kind == "norm" and not isinstance(module, NORMS) and not self._normalises(path):
                continue
            site = self._site_or_none(path, kind) if kind and self.calls[path] else None
            # A 1 x 1 convolution of a single position is a linear layer, of a squeeze or a head.
            if site is not None and not (kind in ("pointwise", "norm") and site.positions < least):
                leaves[site.kind].append(site)
        return leaves

    def _normalises(self, path: str) -> bool:
        """Whether the calls of a module divide by a deviation or a norm; a name alone may be that of something else."""
        calls = [self.graph.trace.calls[number] for number in self.calls[path]]
        ops = {value.op for call in calls for value in self.graph.values[call.first : call.end]}
        return any("norm" in op or "sqrt" in op for op in ops)

    def _input(self) -> list[Site]:
        number = self.places.input
        site = None if number is None else self._site_or_none(self.graph.trace.calls[number].path, "input")
        return [] if site is None else [site]


def _run(model: nn.Module, example_input: Any) -> tuple[tuple[Any, ...], Trace, str]:
    """What a host was run on, the trace of that, and where the example comes from."""
    if example_input is not None:
        args = arguments(example_input)
        return args, trace_host(model, args), "the example_input given"
    images, reason = default_examples(model)
    failed: list[UsageError] = []
    for image in images:
        try:
            return (image,), trace_host(model, (image,)), reason
        except UsageError as error:
            failed.append(error)
    guessed = " and ".join(str(image.shape[1]) for image in images)
    raise UsageError(f"{failed[0]}; none was given, and images of {guessed} channels were tried") from failed[0]
