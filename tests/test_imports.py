"""What loads when: each claim in a fresh process, from the modules that the process has loaded at its end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import saccade

# Heavy, and needed by few uses: nothing below layer 5 but data/ may load one of these as it is imported.
HEAVY = {"PIL", "altair", "jinja2", "jsonschema", "lightning", "lightning_fabric", "matplotlib", "onnx",
         "onnxruntime", "onnxscript", "optuna", "pandas", "playwright", "pydantic", "pytorch_lightning", "ray", "rich",
         "scipy", "timm", "torchmetrics", "torchvision", "typer", "vl_convert"}  # fmt: skip

REPORT = """
import json, sys
json.dump(sorted({name.partition(".")[0] for name in sys.modules}), sys.stdout)
"""
HELP = """
import contextlib, io, runpy, sys
sys.argv = ["saccade", "--help"]
printed, status = io.StringIO(), None
with contextlib.redirect_stdout(printed):
    try:
        runpy.run_module("saccade.cli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
assert not status, status
assert "compare" in printed.getvalue(), printed.getvalue()
"""


def loaded_after(code: str) -> set[str]:
    """The top-level packages in a fresh process after ``code``, the standard library and start-up's own left out."""
    ran = subprocess.run([sys.executable, "-c", code + REPORT], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return {*json.loads(ran.stdout)} - {*sys.stdlib_module_names}


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """What the interpreter loads by itself, such as the hooks of an editable installation."""
    return loaded_after("pass")


@pytest.mark.parametrize("module", ["saccade", "saccade.errors", "saccade._checks"])
def test_importing_loads_the_standard_library_alone(module: str, bare: set[str]) -> None:
    assert loaded_after(f"import {module}") - bare == {"saccade"}


def test_looking_around_loads_nothing(bare: set[str]) -> None:
    assert loaded_after("import saccade\ndir(saccade), saccade.__version__, saccade.SaccadeError") - bare == {"saccade"}


def test_what_adds_attention_loads_torch_and_nothing_else_that_is_heavy() -> None:
    """One process for all of them: what none of them has loaded at the end, none of them loads alone."""
    modules = ("ops", "attention.catalog", "surgery", "_api", "nets", "profiling")
    loaded = loaded_after("\n".join(f"import saccade.{module}" for module in modules))
    assert "torch" in loaded
    assert not loaded & HEAVY


def test_help_loads_neither_torch_nor_anything_else_that_is_heavy() -> None:
    loaded = loaded_after(HELP)
    assert "typer" in loaded
    assert not loaded & (HEAVY - {"typer"} | {"click", "numpy", "torch"})


@pytest.mark.parametrize("package", ["numpy", "pydantic"])
def test_a_process_that_does_load_a_package_is_detected(package: str, bare: set[str]) -> None:
    assert package not in bare
    assert package in loaded_after(f"import {package}") - bare
    assert package in loaded_after(f"def use():\n    import {package}\nuse()") - bare


def test_torch_is_detected_behind_a_public_name(bare: set[str]) -> None:
    assert {"saccade", "torch"} <= loaded_after("import saccade\nsaccade.augment") - bare


def test_a_process_that_fails_is_a_failure() -> None:
    with pytest.raises(AssertionError, match=r"no_such_module"):
        loaded_after("import no_such_module")


def test_dir_has_every_public_name() -> None:
    assert {*saccade.__all__, "__version__"} <= {*dir(saccade)}


@pytest.mark.parametrize("name", ["augmented", "torch", "comparison_", "_unknown"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"^module 'saccade' has no attribute '{name}'$"):
        getattr(saccade, name)


def test_an_unknown_name_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match=r"cannot import name 'augmented' from 'saccade'"):
        from saccade import augmented  # noqa: F401
