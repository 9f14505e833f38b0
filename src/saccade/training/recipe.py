"""A recipe: everything that decides a training but the machine; and changes to one from a command line."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from saccade._checks import first_error, nearest
from saccade.data.augment import STRICT
from saccade.errors import UsageError
from saccade.training.settings import TrainSettings


class Attention(BaseModel):
    """One call of :func:`saccade.augment`."""

    model_config = STRICT

    name: str
    at: str | tuple[str, ...] = "residual"
    options: dict[str, Any] = {}
    start: Literal["paper", "identity"] = "paper"
    stages: str | None = None
    max_positions: Annotated[int, Field(ge=1)] | None = None


class Recipe(TrainSettings):
    """A network, its attention, its data, and how it is trained."""

    model: str
    """As :meth:`saccade.nets.Host.parse` takes it."""
    pretrained: bool = False
    attention: tuple[Attention, ...] = ()
    data: str
    image_size: Annotated[int, Field(ge=8)] = 32
    """The side to which images of a folder are brought."""
    seed: Annotated[int, Field(ge=0)] = 0


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """A recipe with ``KEY=VALUE`` applied, such as ``optim.lr=0.1`` or ``data=imagefolder:photos``.

    Raises:
        UsageError: a key that there is not, with the nearest; a value that does not fit.
    """
    content = recipe.model_dump()
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise UsageError(f"`--set` (={change!r}) must be KEY=VALUE, such as optim.lr=0.1")
        known = list(keys(content))
        if key not in known:
            # Somebody who writes lr means optim.lr, whatever is spelt like it.
            same = next((name for name in known if name.endswith(f".{key}")), key)
            raise UsageError(
                f"`--set` (={change!r}): there is no {key!r}{nearest(same, known)}; keys are {', '.join(known)}"
            )
        *path, last = key.split(".")
        inner = content
        for part in path:
            inner = inner[part]
        inner[last] = _value(text)
    return checked(content)


def checked(content: Any) -> Recipe:
    """A recipe from plain values.

    Raises:
        UsageError: what does not fit, by its key.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        key, value, message = first_error(error)
        raise UsageError(f"`{key}` (={value!r}): {message}") from None


def keys(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of nested settings, such as ``optim`` and ``optim.lr``."""
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


def _value(text: str) -> Any:
    """A Python literal, or else the text as it is; nothing is run."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return {"none": None, "true": True, "false": False}.get(text.lower(), text)
