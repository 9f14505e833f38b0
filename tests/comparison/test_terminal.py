"""On a real terminal a comparison shows a table that fills, a bar and the time left."""

import re
import sys

import pytest

from comparison.conftest import SMALL
from terminal import run_on_a_terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")


def test_a_live_table_fills_and_the_verdicts_follow(tmp_path):
    variant = "se(bias=False)"
    status, text = run_on_a_terminal(
        [
            *(sys.executable, "-m", "saccade.cli", "compare", "--model", SMALL["model"], "--attention", variant),
            *("--seeds", "2", "--epochs", "1", "--out", str(tmp_path / "out")),
        ]
    )
    assert status == 0, text
    assert re.search(r"none +[◐·]· +seed 0: starts", text)
    assert re.search(r"se\(bias=False\) +●●", text)
    assert "seed 0: starts" in text
    assert re.search(r"trials .*100%.* passed, .*left", text)
    last = text[text.rindex("95 % interval verdict") :]
    assert re.search(r"none +\d\d\.\d\d +\(baseline\)", last)
    assert re.search(r"se\(bias=False\) .*(helps|hurts|no difference shown|too few runs)", last)
    assert re.search(r"se\(bias=False\) .* 3 x residual", last)
    assert "wide enough for all rows of its table at once" in " ".join(last.split())
    assert "On this data " in last
    assert "…" not in last, "nothing is cut on 80 columns"
