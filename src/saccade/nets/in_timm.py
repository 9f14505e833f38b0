"""The papers' networks in timm's registry."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

from saccade.errors import UsageError
from saccade.nets.create import create_model
from saccade.nets.networks import NETWORKS


def register_networks() -> None:
    """Make the networks known to ``timm.create_model``, under the same names, once timm is there."""
    if "timm" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Registers as soon as somebody has imported timm: to import it for that takes seconds, and few need it.

    It stays until then: who only asks where timm is does not import it.
    """

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        others = [finder for finder in sys.meta_path if not isinstance(finder, _AfterTimm)]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    _register()

            spec.loader.exec_module = load_and_register
        return spec


def _register() -> None:
    from timm.models import register_model

    for name in NETWORKS:
        # timm adds the name to __all__ of this module, so that it must be here.
        globals()[name] = register_model(_entry(name))


def _entry(name: str) -> Any:
    """A function as timm calls it."""

    def make(
        pretrained: bool = False,
        *,
        num_classes: int | None = None,
        in_chans: int = 3,
        features_only: bool = False,
        out_indices: int | tuple[int, ...] | None = None,
        **options: Any,
    ) -> nn.Module:
        if pretrained:
            raise UsageError(f"there are no trained weights of {name}; pretrained_host=True gives the host its own")
        if "in_channels" in options:
            channels = options["in_channels"]
            raise UsageError(
                f"`in_channels` (={channels!r}) has another name in timm: "
                f"timm.create_model({name!r}, in_chans={channels!r})"
            )
        # timm gives None for what nobody asked for, and its scripts always a rate of dropout, also of 0.
        options = {
            key: value
            for key, value in options.items()
            if value is not None and not (key.startswith("drop") and value == 0)
        }
        model = create_model(name, num_classes=num_classes, in_channels=in_chans, **options)
        return _features(name, model, out_indices) if features_only else model

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"saccade.create_model({name!r})"
    return make


def _features(name: str, model: nn.Module, out_indices: int | tuple[int, ...] | None) -> nn.Module:
    """The maps of the stages, as timm's networks give them."""
    from timm.models._features import FeatureHookNet

    count = len(model.feature_info)  # pyright: ignore[reportArgumentType]
    wanted = count if out_indices is None else out_indices
    indices = tuple(range(-wanted, 0) if isinstance(wanted, int) else wanted)
    if not indices or not all(-count <= index < count for index in indices):
        raise UsageError(
            f"`out_indices` (={out_indices!r}) must name maps of {name} by numbers from {-count} to {count - 1}, or "
            f"say how many of the last, from 1 to {count}"
        )
    return FeatureHookNet(model, out_indices=tuple(index % count for index in indices))
