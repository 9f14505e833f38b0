"""Names with options as people write them on a command line: ``gam(reduction=8, groups=4)``."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any

from saccade.errors import UsageError

# Names of mechanisms that Python's grammar keeps for itself are read with a line behind them.
_KEYWORD = re.compile(r"\b(lambda|nonlocal)(?=\s*(?:,|\(|$))")
_STAND_IN = {"lambda_": "lambda", "nonlocal_": "nonlocal"}


@dataclass(frozen=True)
class Spec:
    """A name and its options; prints as it was written, options in their order."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


def parse_specs(text: str, what: str) -> list[Spec]:
    """Parse ``"se,gam(reduction=8)"``. Values are Python literals; nothing is run.

    Args:
        text: what the user wrote.
        what: the argument's name, for the error.
    """
    try:
        tree = ast.parse("[" + _KEYWORD.sub(r"\1_", text) + "]", mode="eval").body
        return [_spec(node) for node in tree.elts] if isinstance(tree, ast.List) else _fail()
    except (SyntaxError, TypeError, ValueError):
        raise UsageError(
            f"`{what}` (={text!r}) must be names, or names with options, separated by commas, "
            "such as se,gam(reduction=8)"
        ) from None


def parse_spec(text: str, what: str) -> Spec:
    """Parse one name with its options."""
    specs = parse_specs(text, what)
    if len(specs) != 1:
        raise UsageError(f"`{what}` (={text!r}) must be one name, with options or without, such as gam(reduction=8)")
    return specs[0]


def split_places(text: str) -> list[str]:
    """Kinds of site, paths and globs from ``"layer3.*, layer4.*"``."""
    return [place.strip() for place in text.split(",")]


def _spec(node: ast.expr) -> Spec:
    if isinstance(node, ast.Name):
        return Spec(_own_name(node))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        options = {_name(keyword): ast.literal_eval(keyword.value) for keyword in node.keywords}
        return Spec(_own_name(node.func), options) if len(options) == len(node.keywords) else _fail()
    return _fail()


def _own_name(node: ast.Name) -> str:
    return _STAND_IN.get(node.id, node.id)


def _name(keyword: ast.keyword) -> str:
    return keyword.arg if keyword.arg is not None else _fail()


def _fail() -> Any:
    raise ValueError
