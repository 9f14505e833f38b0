"""Saccade adds attention to convolutional networks and tells whether it helped.

``import saccade`` loads nothing else; a name loads what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saccade import nets as nets
    from saccade import ops as ops
    from saccade._api import apply_plan as apply_plan
    from saccade._api import attention_parameters as attention_parameters
    from saccade._api import augment as augment
    from saccade._api import create_attention as create_attention
    from saccade._api import describe as describe
    from saccade._api import find_sites as find_sites
    from saccade._api import host_parameters as host_parameters
    from saccade._api import list_attention as list_attention
    from saccade._api import load_host as load_host
    from saccade._api import plan_of as plan_of
    from saccade._api import strip as strip
    from saccade.attention.aaconv import AAConv2d as AAConv2d
    from saccade.comparison import compare as compare
    from saccade.errors import SaccadeError as SaccadeError
    from saccade.nets import create_model as create_model
    from saccade.nets import load as load
    from saccade.nets import save as save
    from saccade.profiling import cost as cost
    from saccade.surgery import Plan as Plan

__version__ = "0.1.0"

_HOME = {
    "AAConv2d": "saccade.attention.aaconv",
    "Plan": "saccade.surgery",
    "SaccadeError": "saccade.errors",
    "apply_plan": "saccade._api",
    "attention_parameters": "saccade._api",
    "find_sites": "saccade._api",
    "host_parameters": "saccade._api",
    "load_host": "saccade._api",
    "augment": "saccade._api",
    "compare": "saccade.comparison",
    "cost": "saccade.profiling",
    "create_attention": "saccade._api",
    "create_model": "saccade.nets",
    "describe": "saccade._api",
    "list_attention": "saccade._api",
    "load": "saccade.nets",
    "save": "saccade.nets",
    "plan_of": "saccade._api",
    "strip": "saccade._api",
}
_PACKAGES = ("nets", "ops")

__all__ = ["AAConv2d", "Plan", "SaccadeError", "apply_plan", "attention_parameters", "augment", "compare", "cost",
           "create_attention", "create_model", "describe", "find_sites", "host_parameters", "list_attention", "load",
           "load_host", "nets", "ops", "plan_of", "save", "strip"]  # fmt: skip


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
