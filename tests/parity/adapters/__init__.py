"""For every source of golden files: our module for a file's config, and our place for each of the reference's tensors.

One file for each mechanism. An adapter's keyword arguments are the config keys that its source may carry; another key
is an error. It may rename, reshape and permute, and reads every size and option from the config.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from parity.adapted import Adapted, Fault, Shapes, Source
from saccade._checks import check_options, keyword_options
from saccade.errors import UsageError

_FILES = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
ADAPTERS: dict[Source, Callable[..., Adapted]] = {key: value for file in _FILES for key, value in file.ADAPTERS.items()}
FAULTS: dict[Source, Fault] = {key: value for file in _FILES for key, value in getattr(file, "FAULTS", {}).items()}


def adapt(source: Source, config: Mapping[str, Any], *, case: str = "", shapes: Shapes | None = None) -> Adapted:
    """Our module and names for a file.

    Some sources' configs leave something out, a number of channels for instance. Their adapters also take the ``case``,
    or the ``shapes`` of the file's tensors.

    Raises:
        UsageError: a source without an adapter, or a config key that its adapter does not read.
    """
    if source not in ADAPTERS:
        raise UsageError(f"no adapter for the golden files of {source}; write one in tests/parity/adapters/")
    adapter = ADAPTERS[source]
    check_options(f"the adapter of {source}", adapter, dict(config))
    beside = {"case": case, "shapes": shapes or {}}
    return adapter(**config, **{name: beside[name] for name in beside if name in keyword_options(adapter)})
