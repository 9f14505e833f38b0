"""The public names and signatures, as a checked-in inventory: what users rely on changes knowingly or not at all.

After a change that is meant: ``uv run python tests/test_surface.py --write``, and a line in CHANGELOG.md.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import saccade

INVENTORY = Path(__file__).with_name("surface.json")
ADVICE = (
    "the public surface differs from tests/surface.json. If that is meant, run "
    "`uv run python tests/test_surface.py --write` and add a line to CHANGELOG.md in the same change"
)


def surface() -> dict[str, str]:
    """Every public name with its signature, or with what it is."""
    found: dict[str, str] = {}
    for name in saccade.__all__:
        value = getattr(saccade, name)
        found[name] = entry(value)
        if inspect.ismodule(value):
            found |= {f"{name}.{inner}": entry(getattr(value, inner)) for inner in public_names(value)}
    return dict(sorted(found.items()))


def public_names(package: ModuleType) -> list[str]:
    """The names that a package's ``__init__`` hands on from its own modules."""
    own = ((name, getattr(value, "__module__", "")) for name, value in vars(package).items())
    return [name for name, home in own if not name.startswith("_") and home.startswith(f"{package.__name__}.")]


def entry(value: Any) -> str:
    """A package, an exception, or the signature; a default that is a function shows without its address."""
    if inspect.ismodule(value):
        return "package"
    if inspect.isclass(value) and issubclass(value, Exception):
        return "exception"
    signature = re.sub(r" at 0x[0-9a-f]+>", ">", str(inspect.signature(value)))
    return f"class{signature}" if inspect.isclass(value) else signature


def difference(recorded: dict[str, str], found: dict[str, str]) -> list[str]:
    """One line for each name that is new, gone or changed."""
    names = sorted(recorded.keys() | found.keys())
    return [
        f"{name}: recorded {recorded.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
        for name in names
        if recorded.get(name) != found.get(name)
    ]


def test_the_surface_is_the_recorded_one() -> None:
    differs = difference(json.loads(INVENTORY.read_text(encoding="utf-8")), surface())
    assert not differs, "\n".join([ADVICE, *differs])


def test_public_names_are_sorted_and_documented() -> None:
    assert sorted(saccade.__all__) == list(saccade.__all__)
    bare = [name for name in saccade.__all__ if not inspect.getdoc(getattr(saccade, name))]
    assert not bare, "public names without a docstring"


def test_a_changed_surface_is_reported() -> None:
    recorded = {"augment": "(model)", "strip": "(model)"}
    assert difference(recorded, recorded) == []
    assert difference(recorded, {"augment": "(model, at)", "plan_of": "(model)"}) == [
        "augment: recorded (model), found (model, at)",
        "plan_of: recorded nothing, found (model)",
        "strip: recorded (model), found nothing",
    ]


def test_entries_tell_signatures_apart() -> None:
    def first(x: int, *, scale: float = 1.0) -> float: ...

    def second(x: int, scale: float = 1.0) -> float: ...

    def third(act=len, tell=lambda: None): ...

    assert entry(first) == "(x: 'int', *, scale: 'float' = 1.0) -> 'float'"
    assert entry(first) != entry(second)
    assert re.fullmatch(r"\(act=<built-in function len>, tell=<function .*<lambda>>\)", entry(third))
    assert entry(saccade.AAConv2d).startswith("class(in_channels")
    assert entry(saccade.ops) == "package"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_surface.py --write")
    INVENTORY.write_text(json.dumps(surface(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
