"""Who may import whom: downwards only, siblings not at all, and one door for each heavy package. Read from the AST."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import saccade

PACKAGE = Path(saccade.__file__).parent

# A unit is a file or folder of the package. Within a layer no unit imports another, but for the pairs of BESIDE.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "_checks", "_specs", "_seeds", "_files"),
    ("ops",),
    ("attention", "surgery"),
    ("_api", "_factory"),
    ("nets", "data", "profiling"),
    ("training", "explain", "exporting"),
    ("comparison", "report", "recipes"),
    ("cli",),
)
LAYER = {unit: layer for layer, units in enumerate(LAYERS) for unit in units}
BESIDE = {(a, b) for a in LAYERS[0] for b in LAYERS[0]} | {("_api", "_factory"), ("comparison", "report")}

# The public names that `saccade` hands on, with the module that each comes from: importing one is importing that.
ROOT_NAMES: dict[str, str] = {name: saccade._HOME.get(name, f"saccade.{name}") for name in saccade.__all__}
ROOT_CONSTANTS = ("__version__",)
TYPE_CHECKING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@dataclass(frozen=True)
class Door:
    """The units that may import a heavy package; ``lazy``: only where it is needed, never as their module loads."""

    units: tuple[str, ...]
    lazy: bool = True


DOORS = {
    "altair": Door(("report",)),
    "lightning": Door(("training",), lazy=False),
    "lightning_fabric": Door(()),
    "onnx": Door(("exporting",)),
    "onnxruntime": Door(("exporting",)),
    "onnxscript": Door(("exporting",)),
    "optuna": Door(("comparison",)),
    "pytorch_lightning": Door(()),
    "ray": Door(("comparison",)),
    "rich": Door(("cli",), lazy=False),
    "scipy": Door(("comparison",)),
    "timm": Door(("nets", "training")),
    "torchvision": Door(("data", "nets"), lazy=False),
    "triton": Door(("ops",), lazy=False),
    "typer": Door(("cli",), lazy=False),
    "vl_convert": Door(("report",)),
}


@dataclass(frozen=True)
class Import:
    """One module that a line imports, and whether that happens as the importing module loads."""

    target: str
    line: int
    text: str
    at_load: bool


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import in a module: in functions, under TYPE_CHECKING, relative, and by ``import_module("...")``."""
    deferred = _deferred_nodes(tree := ast.parse(source))
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        for target in _targets(node, package):
            yield Import(target, node.lineno, ast.unparse(node), at_load=node not in deferred)


def _deferred_nodes(tree: ast.AST) -> set[ast.AST]:
    """What does not run as the module loads: bodies of functions, and what only type checkers read."""
    lazy = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    checked = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) in TYPE_CHECKING]
    bodies = [n.body if isinstance(n.body, list) else [n.body] for n in (*lazy, *checked)]
    return {inner for body in bodies for statement in body for inner in ast.walk(statement)}


def _targets(node: ast.AST, package: str) -> list[str]:
    """The modules that a statement or call imports, as absolute names."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            # Of other packages the first name decides. Of ours, `from saccade import x` may be a module or a name.
            return [f"{base}.{alias.name}" for alias in node.names] if base == "saccade" else [base]
        case ast.Call(func=called, args=[ast.Constant(value=str(name)), *_]):
            return [name] if ast.unparse(called).rpartition(".")[2] in ("import_module", "__import__") else []
    return []


def problem(unit: str, found: Import) -> str | None:
    """Why a unit may not import this, or None."""
    head, _, rest = found.target.partition(".")
    if head in DOORS:
        return _door_problem(unit, head, found)
    if head != "saccade":
        return None
    if rest in ROOT_CONSTANTS:
        return None
    if not rest or rest == "*":
        # The top layer may use every name, so it may use them all by way of the package.
        above = "`saccade` itself stands above this layer; import from the module that has the name"
        return above if LAYER[unit] < len(LAYERS) - 1 else None
    other = ROOT_NAMES.get(rest, found.target).split(".")[1]
    return _layer_problem(unit, other)


def _door_problem(unit: str, package: str, found: Import) -> str | None:
    door = DOORS[package]
    if unit not in door.units:
        return f"the door of {package} is {' or '.join(f'{u}/' for u in door.units) or 'closed'}"
    if door.lazy and found.at_load:
        return f"{package} is heavy: import it inside the function that needs it"
    return None


def _layer_problem(unit: str, other: str) -> str | None:
    if other not in LAYER:
        return f"{other} is in no layer; add it to LAYERS and to the design"
    if unit == other or (unit, other) in BESIDE or LAYER[other] < LAYER[unit]:
        return None
    if LAYER[other] == LAYER[unit]:
        return f"{unit} and {other} are siblings in layer {LAYER[unit]}"
    return f"{unit} is in layer {LAYER[unit]}, {other} above it in layer {LAYER[other]}"


def problems(source: str, path: str) -> list[str]:
    """``file:line: import: reason`` for every forbidden import of a file, given its path from ``src``."""
    parts = Path(path).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    found = imports(source, module, is_package=is_package)
    reasons = ((item, problem(parts[1], item)) for item in found)
    return [f"src/{path}:{item.line}: {item.text}: {reason}" for item, reason in reasons if reason]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_import_goes_downwards_and_through_its_door() -> None:
    found = [line for path in FILES for line in problems(path.read_text(), path.relative_to(PACKAGE.parent).as_posix())]
    assert not found, "\n" + "\n".join(found)


def test_every_file_and_folder_is_in_a_layer() -> None:
    units = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not units - {*LAYER, "__init__", "__pycache__"}, "in no layer: add it to LAYERS and to the design"


def test_the_package_itself_imports_nothing_as_it_loads() -> None:
    source = (PACKAGE / "__init__.py").read_text()
    loaded = {item.target for item in imports(source, "saccade", is_package=True) if item.at_load}
    assert loaded == {"__future__", "importlib", "typing"}


def test_there_is_something_to_check() -> None:
    read = [item for path in FILES for item in imports(path.read_text(), "saccade.any.thing")]
    assert len(FILES) > 20
    assert len([item for item in read if item.target.startswith("saccade.")]) > 50


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        pytest.param("ops/a.py", "import saccade.attention", "above it in layer 2", id="import"),
        pytest.param("ops/a.py", "import os, saccade.attention.se as se", "above it in layer 2", id="import-as"),
        pytest.param("ops/a.py", "from saccade.cli import main", "above it in layer 7", id="from"),
        pytest.param("ops/a.py", "from saccade.nets.cifar_resnet import *", "above it in layer 4", id="from-star"),
        pytest.param("ops/a.py", "from saccade import nets", "above it in layer 4", id="from-root-package"),
        pytest.param("surgery/a.py", "from saccade import augment", "above it in layer 3", id="from-root-name"),
        pytest.param("report/a.py", "import saccade", "itself stands above", id="root"),
        pytest.param("ops/a.py", "from saccade import *", "itself stands above", id="root-star"),
        pytest.param("ops/a.py", "from .. import _api", "above it in layer 3", id="relative-root"),
        pytest.param("ops/a.py", "from ..surgery import Plan", "above it in layer 2", id="relative"),
        pytest.param("ops/b/c.py", "from ...surgery.plan import Plan", "above it in layer 2", id="relative-deep"),
        pytest.param("ops/__init__.py", "from ..surgery import Plan", "above it in layer 2", id="relative-in-init"),
        pytest.param("errors.py", "from ._api import augment", "above it in layer 3", id="relative-in-file"),
        pytest.param("_checks.py", "def f():\n    import saccade.ops", "above it in layer 1", id="in-function"),
        pytest.param("ops/a.py", "class A:\n  from saccade._api import strip", "above it in layer 3", id="in-class"),
        pytest.param(
            "ops/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from saccade.surgery import Plan",
            "above it in layer 2",
            id="type-checking",
        ),
        pytest.param(
            "ops/a.py", "import importlib\nimportlib.import_module('saccade.nets')", "layer 4", id="import-module"
        ),
        pytest.param("ops/a.py", "try:\n    __import__('saccade.nets')\nexcept E:\n    pass", "layer 4", id="dunder"),
        pytest.param("attention/a.py", "import saccade.surgery.plan", "siblings in layer 2", id="siblings-2"),
        pytest.param("surgery/a.py", "from saccade.attention import catalog", "siblings in layer 2", id="siblings-2b"),
        pytest.param("data/a.py", "from saccade.nets import CifarResNet", "siblings in layer 4", id="siblings-4"),
        pytest.param("explain/a.py", "from saccade.training import fit", "siblings in layer 5", id="siblings-5"),
        pytest.param("report/a.py", "from saccade.comparison import verdict", "siblings in layer 6", id="report"),
        pytest.param("recipes/a.py", "from saccade.report import html", "siblings in layer 6", id="recipes"),
        pytest.param("cli/a.py", "from saccade.testing import x", "testing is in no layer", id="unknown"),
        pytest.param("nets/a.py", "def f():\n    import lightning as L", "the door of lightning is", id="door"),
        pytest.param("cli/a.py", "from altair import Chart", "the door of altair is report/", id="door-from"),
        pytest.param("training/a.py", "import pytorch_lightning", "is closed", id="door-closed"),
        pytest.param("ops/a.py", "import torchvision.ops", "the door of torchvision is data/ or nets/", id="door-two"),
        pytest.param("report/a.py", "import altair as alt", "inside the function", id="door-not-lazy"),
        pytest.param("report/a.py", "class A:\n    import vl_convert", "inside the function", id="door-class-body"),
        pytest.param("report/a.py", "if WIDE:\n    import vl_convert", "inside the function", id="door-conditional"),
        pytest.param(
            "report/a.py", "if not TYPE_CHECKING:\n    import altair", "inside the function", id="not-type-checking"
        ),
        pytest.param(
            "report/a.py",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import altair",
            "inside the function",
            id="else-of-type-checking",
        ),
    ],
)
def test_a_forbidden_import_is_reported(path: str, source: str, reason: str) -> None:
    found = problems(source, f"saccade/{path}")
    guilty = ("saccade", "from ..", "from ._", *DOORS)
    line = next(n for n, text in enumerate(source.splitlines(), 1) if any(word in text for word in guilty))
    assert len(found) == 1, found
    assert found[0].startswith(f"src/saccade/{path}:{line}: ")
    assert reason in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_checks.py", "from saccade.errors import UsageError"),
        ("ops/a.py", "import math\nimport torch\nfrom torch.nn import functional as F"),
        ("ops/a.py", "from saccade.ops.b import c\nfrom .b import d\nfrom . import e"),
        ("ops/a.py", "import triton"),
        ("_api.py", "from saccade.attention import catalog\nfrom saccade.surgery import Plan"),
        ("nets/a.py", "def f():\n    import timm, torchvision"),
        ("comparison/a.py", "from saccade.report.results import Results\nfrom saccade.training import fit"),
        ("comparison/a.py", "from saccade import __version__, augment"),
        ("report/a.py", "def f():\n    import altair as alt\n    from vl_convert import vegalite_to_svg"),
        ("report/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import altair as alt"),
        ("cli/a.py", "from rich.table import Table\nimport typer\nfrom saccade.comparison import compare"),
        ("cli/a.py", "from saccade import ops\nfrom saccade import compare"),
        ("cli/a.py", "def f():\n    import saccade"),
    ],
)
def test_an_allowed_import_is_not_reported(path: str, source: str) -> None:
    assert problems(source, f"saccade/{path}") == []
