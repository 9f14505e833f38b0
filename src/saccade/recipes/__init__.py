"""Recipes by name: one file each, its docstring the source, the command, the expected score and time.

``saccade train --list`` shows them; a file ``sample_resnet8.py`` is the recipe ``sample-resnet8``.
"""

from __future__ import annotations

import importlib
import pkgutil

from saccade._checks import check_choice
from saccade.training.recipe import Recipe


def list_recipes() -> list[str]:
    """Names of all recipes."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def read_recipe(name: str) -> tuple[Recipe, str]:
    """A recipe and its description.

    Raises:
        UsageError: an unknown name, with the nearest.
    """
    check_choice("recipe", name, list_recipes())
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return module.RECIPE, module.__doc__ or ""
