"""Saccade adds attention to convolutional networks and tells whether it helped.

``import saccade`` loads nothing else; a name loads what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saccade import nets as nets
    from saccade import ops as ops
    from saccade._api import augment as augment
    from saccade._api import create_attention as create_attention
    from saccade._api import describe as describe
    from saccade._api import list_attention as list_attention
    from saccade._api import plan_of as plan_of
    from saccade._api import strip as strip
    from saccade.attention.aaconv import AAConv2d as AAConv2d
    from saccade.comparison import compare as compare
    from saccade.errors import SaccadeError as SaccadeError
    from saccade.profiling import cost as cost

__version__ = "0.1.0"

_HOME = {
    "AAConv2d": "saccade.attention.aaconv",
    "SaccadeError": "saccade.errors",
    "augment": "saccade._api",
    "compare": "saccade.comparison",
    "cost": "saccade.profiling",
    "create_attention": "saccade._api",
    "describe": "saccade._api",
    "list_attention": "saccade._api",
    "plan_of": "saccade._api",
    "strip": "saccade._api",
}
_PACKAGES = ("nets", "ops")

__all__ = ["AAConv2d", "SaccadeError", "augment", "compare", "cost", "create_attention", "describe", "list_attention",
           "nets", "ops", "plan_of", "strip"]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"saccade.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'saccade' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
