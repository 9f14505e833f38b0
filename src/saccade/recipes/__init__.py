"""Recipes by name: a file for each or for the rows of one table, its docstring the source, the commands, the expected
scores and times.

``saccade train --list`` shows them. A file ``sample_resnet8.py`` with a ``RECIPE`` is the recipe ``sample-resnet8``;
one with ``RECIPES`` has several, by their names.
"""

from __future__ import annotations

import importlib
import pkgutil

from saccade._checks import check_choice
from saccade.training.recipe import Recipe


def list_recipes() -> list[str]:
    """Names of all recipes."""
    return sorted(_recipes())


def read_recipe(name: str) -> tuple[Recipe, str]:
    """A recipe and its description.

    Raises:
        UsageError: an unknown name, with the nearest.
    """
    recipes = _recipes()
    check_choice("recipe", name, sorted(recipes))
    return recipes[name]


def _recipes() -> dict[str, tuple[Recipe, str]]:
    found: dict[str, tuple[Recipe, str]] = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        own = vars(module).get("RECIPES") or {file.name.replace("_", "-"): module.RECIPE}
        found |= {name: (recipe, module.__doc__ or "") for name, recipe in own.items()}
    return found
