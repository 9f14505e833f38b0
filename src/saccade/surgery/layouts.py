"""Which axis of a tensor is which, followed through the operators of a network rather than guessed from sizes."""

# B batch, C channels, H W the map; "*" an axis that holds several of those

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Axes = tuple[str, ...]
Source = tuple[tuple[int, ...], Axes | None, bool]  # shape, axes, whether it depends on the host's input

NCHW: Axes = ("B", "C", "H", "W")
NHWC: Axes = ("B", "H", "W", "C")
CHANNELS_SECOND = ("aten.convolution", "aten.native_batch_norm", "aten._native_batch_norm_legit_no_training",
                   "aten.cudnn_batch_norm", "aten.native_group_norm", "aten._native_batch_norm_legit")  # fmt: skip
CHANNELS_LAST = ("aten.mm", "aten.addmm")
RESHAPES = ("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias")


def axes_of(op: str, args: Sequence[Any], sources: Sequence[Source]) -> Axes | None:
    """The axes of an operator's result, or None where they cannot be told.

    Args:
        op: such as ``"aten.permute"``.
        args: what the operator was called with.
        sources: of each tensor among those.
    """
    data = [(shape, axes) for shape, axes, from_data in sources if from_data]
    if not data:
        return None
    shape, axes = data[0]
    if op in CHANNELS_SECOND:
        return NCHW if len(shape) == 4 else axes
    if op in CHANNELS_LAST:
        return ("*", "C")
    if op in RESHAPES:
        return _reshaped(shape, axes, tuple(args[1]))
    if axes is None:
        return next((known for of, known in data if known is not None and len(of) >= len(shape)), None)
    if op == "aten.permute":
        return tuple(axes[d] for d in args[1])
    if op in ("aten.transpose", "aten.transpose_"):
        swapped = list(axes)
        swapped[args[1]], swapped[args[2]] = swapped[args[2]], swapped[args[1]]
        return tuple(swapped)
    return _elementwise(data)


def _elementwise(data: list[tuple[tuple[int, ...], Axes | None]]) -> Axes | None:
    """Of operands that are combined position by position, the one with the most axes tells."""
    most = max(len(shape) for shape, _ in data)
    return next((axes for shape, axes in data if len(shape) == most and axes is not None), None)


def _reshaped(shape: tuple[int, ...], axes: Axes | None, target: tuple[int, ...]) -> Axes | None:
    """Tokens and maps: the batch and the positions may be folded into one axis, or unfolded from it."""
    if axes is None or not shape or 0 in shape:
        return None
    count = 1
    for size in shape:
        count *= size
    known = 1
    for size in target:
        known *= size if size > 0 else 1
    full = tuple(count // known if size < 0 else size for size in target)
    if len(full) == len(axes) and full == shape:
        return axes
    if axes[-1] == "C" and full[-1] == shape[-1]:
        return {2: ("*", "C"), 3: ("B", "*", "C"), 4: NHWC}.get(len(full))
    if axes[-2:] == ("H", "W") and full[-2:] == shape[-2:] and full[0] == shape[0]:
        return {4: NCHW, 5: ("B", "*", "*", "H", "W")}.get(len(full))  # channels in groups, as a shuffle has them
    if axes[:2] == ("B", "C") and full[:2] == shape[:2]:
        return {3: ("B", "C", "*"), 4: NCHW}.get(len(full))
    return None
