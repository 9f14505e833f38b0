"""Where an edit can go: the sites of a host, and the kinds that a module is by its class."""

# B batch, C channels, H W the map

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from torch import nn

from saccade.surgery.attach import replaced_by
from saccade.surgery.example import host_modules
from saccade.surgery.layouts import NHWC, Axes

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
