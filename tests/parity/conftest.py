"""The option ``--golden DIR``, and one test per golden file."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.reference import Reference, read

DEFAULT = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=DEFAULT, metavar="DIR", help="folder of golden files")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``right_reference`` runs over the files to agree with, ``wrong_reference`` over those that document a fault."""
    for fixture, wrong in (("right_reference", False), ("wrong_reference", True)):
        if fixture in metafunc.fixturenames:
            files = [file for file in _read_all(metafunc.config) if file.is_wrong is wrong]
            metafunc.parametrize(fixture, files, ids=[file.name for file in files])


def _read_all(config: pytest.Config) -> list[Reference]:
    folder = config.getoption("--golden", DEFAULT)
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise pytest.UsageError(f"--golden: {folder} holds no .safetensors file")
    return [read(path) for path in paths]
