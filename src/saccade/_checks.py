"""Checks of arguments. Each sentence is written once, here."""

from __future__ import annotations

import difflib
import inspect
import json
import math
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from saccade.errors import UsageError

if TYPE_CHECKING:
    import torch
    from pydantic import ValidationError
    from torch import Tensor


def nearest(value: str, known: Iterable[str]) -> str:
    """A hint such as `` (did you mean 'gam'?)``, or nothing when no known word is close."""
    close = difflib.get_close_matches(value, list(known), n=3)
    return f" (did you mean {' or '.join(repr(word) for word in close)}?)" if close else ""


def check_choice(name: str, value: object, choices: Collection[Any]) -> None:
    if value not in list(choices):
        listed = ", ".join(repr(choice) for choice in choices)
        hint = nearest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
        raise UsageError(f"`{name}` (={value!r}) must be one of {listed}{hint}")


def check_int(name: str, value: object, *, at_least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise UsageError(f"`{name}` (={value!r}) must be an integer of at least {at_least}")


def check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"`{name}` (={value!r}) must be True or False")


def largest_divisor(value: int, at_most: int) -> int:
    """The largest divisor of ``value`` that is not above ``at_most``, 1 if there is none."""
    return max((n for n in range(1, min(value, at_most) + 1) if value % n == 0), default=1)


def check_number(name: str, value: object, *, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high or math.isinf(value):
        reach = f"of at least {low}, and finite" if math.isinf(high) else f"from {low} to {high}"
        raise UsageError(f"`{name}` (={value!r}) must be a number {reach}")


def check_divides(name: str, value: int, whole_name: str, whole: int) -> None:
    if whole % value:
        raise UsageError(f"`{name}` (={value}) must divide `{whole_name}` (={whole})")


def check_map(x: Tensor, channels: int, owner: str) -> None:
    """The input of a mechanism must be a batch of maps, (B, C, H, W), with the mechanism's channels."""
    if not isinstance(x.dim(), int):
        return  # a symbol of torch.fx.symbolic_trace, which has no shape
    if x.dim() != 4:
        raise UsageError(f"{owner} takes maps of shape (B, C, H, W); got {x.dim()} dimensions, {tuple(x.shape)}")
    if x.shape[1] != channels:
        raise UsageError(
            f"{owner} was built for {channels} channels; got a map with {x.shape[1]}, {tuple(x.shape)}; "
            f"build it with channels={x.shape[1]}"
        )
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise UsageError(f"{owner} takes maps of at least one pixel; got {tuple(x.shape)}")


def check_options(owner: str, target: Callable[..., Any], options: dict[str, Any]) -> None:
    """Options given by name must be keyword-only parameters of ``target``."""
    if not isinstance(options, dict):
        raise UsageError(f"`options` (={options!r}) must be a dict: the options of {owner} by name")
    known = list(keyword_options(target))
    for name in options:
        if name not in known:
            listed = ", ".join(known) or "none"
            hint = nearest(name, known) if isinstance(name, str) else ""
            raise UsageError(f"{owner} has no option {name!r}{hint}; its options are {listed}")


def check_json(name: str, value: Any) -> Any:
    """A value as JSON has it: what it would be read back as (a tuple as a list)."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"`{name}` (={value!r}) must be values that JSON can hold: {error}") from None


def keyword_options(target: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters of ``target`` with their defaults, in the order of its signature."""
    parameters = inspect.signature(target).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def hidden_width(channels: int, reduction: int, width: int | None = None) -> int:
    """The width of a bottleneck: ``max(1, channels // reduction)``, so that small maps work, or the caller's own."""
    check_int("channels", channels)
    check_int("reduction", reduction)
    if width is None:
        return max(1, channels // reduction)
    check_int("width", width)
    if width > channels:
        raise UsageError(f"`width` (={width}) must be at most `channels` (={channels}): it is that of a bottleneck")
    return width


def first_error(error: ValidationError) -> tuple[str, Any, str]:
    """Of what pydantic found: the key, such as ``optim.lr``, what was given for it, and the rule."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), first["input"], first["msg"]


def check_device(device: torch.device | str) -> torch.device:
    """The device, which must be there and compute."""
    import torch

    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    # PyTorch asserts that it was built for a device, and imports what a device of another package (hpu) needs.
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"`device` (={str(device)!r}) cannot be used here: {reason}") from error
    if where.type == "meta":
        raise UsageError("`device` (='meta') computes nothing; give 'cpu'")
    return where
