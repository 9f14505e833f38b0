"""What the pages say is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import saccade
from saccade.cli.compare import read_config
from saccade.report.html import report_html
from saccade.report.results import read_results

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["README.md", "docs/mechanisms.md", "CHANGELOG.md"])
def test_the_page_names_every_mechanism(page: str) -> None:
    prose = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    words = {word for code in re.findall(r"`([^`]+)`", prose) for word in code.split()}
    assert not set(saccade.list_attention()) - words


def test_the_table_of_kinds_is_the_catalogues() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| `([^`]+)` \|$", (ROOT / "docs/mechanisms.md").read_text(), re.MULTILINE)
    kinds = {saccade.describe(name).kind for name in saccade.list_attention()}
    assert {kind: names.split() for kind, names in rows} == {kind: saccade.list_attention(kind=kind) for kind in kinds}


def test_the_demonstrations_report_is_that_of_its_results() -> None:
    folder = ROOT / "docs/examples"
    results, asked = read_results(folder / "flowers"), read_config(folder / "flowers.yaml")
    assert report_html(results) == (folder / "flowers/report.html").read_text(encoding="utf-8")
    assert (results.model, results.data, results.epochs) == (asked["model"], asked["data"], asked["epochs"])
    assert len(results.seeds) == asked["seeds"]
    assert results.failed == []
