"""Costs are measured in a process of its own: a variant that ends it is listed, and the rest is measured without."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from comparison.test_controls import request
from comparison.test_interruption import COMMAND, wait_for_no_workers, workers
from comparison.test_pool import wait_for
from saccade.comparison import compare
from saccade.comparison.pool import Pool
from saccade.comparison.record import find_record
from saccade.comparison.request import Variant
from saccade.data import load_data
from saccade.errors import TrialError, UsageError

HOST = """
import ctypes, os, signal, time
import saccade
from torch import nn

def killed(): os.kill(os.getpid(), signal.SIGKILL)
def crashed(): ctypes.string_at(0)
def left(): os._exit(3)
def raised(): raise RuntimeError("not with the others")

# What each mechanism does to the network that it is in: when it trains, or late, among the runs that are timed.
FATES = {{"se": (killed, "train"), "eca": (crashed, 20), "simam": (left, "train"), "sge": (raised, 20), {more}}}

class Doomed(nn.Sequential):
    runs = 0

    def forward(self, x):
        names = [edit.attention for edit in saccade.plan_of(self).edits] or ["none"]
        fate, when = FATES.get(names[0], (None, None))
        self.runs += not self.training
        if fate and (self.training if when == "train" else self.runs == when):
            fate()
        return super().forward(x)

def doomed(in_channels, num_classes):
    return Doomed(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, num_classes))
"""


def host(folder: Path, more: str = "") -> str:
    (folder / "host.py").write_text(HOST.format(more=more))
    return f"{folder / 'host.py'}:doomed"


def test_a_variant_that_ends_its_process_is_told_with_the_reason_and_the_rest_is_measured(tmp_path):
    asked = request(model=host(tmp_path), attention="none,se,eca,simam,sge,gc", at="conv")
    with Pool(tmp_path, load_data("sample"), 1) as pool:
        costs, unable = pool.measure(asked, asked.variants)
    assert unable == {
        "se": f"its process was ended by signal 9, {signal.strsignal(9)} (out of memory?)",
        "eca": f"its process was ended by signal 11, {signal.strsignal(11)}",
        "simam": "its process ended with status 3",
        "sge": "RuntimeError: not with the others",
    }
    assert list(costs) == [variant.name for variant in asked.variants]
    for name, cost in costs.items():
        assert ((cost.params or 0) > 0, (cost.train_step_ms or 0) > 0) == ((name in ("none", "gc")),) * 2


def test_a_comparison_goes_on_without_a_variant_that_the_system_kills_as_it_is_measured(tmp_path):
    asked = {"model": host(tmp_path), "attention": "none,se,gc", "at": "conv", "seeds": 2, "epochs": 1, "lr": 0.01}
    finished = compare(**asked, jobs=1, out=tmp_path / "out")
    assert [(each.name, each.seed) for each in finished.results.failed] == [("se", 0), ("se", 1)]
    assert all("signal 9" in each.reason for each in finished.results.failed)
    none, se, gc = finished.results.variants
    assert (se.scores, se.params, se.sites) == ([None, None], None, [])
    assert None not in [*none.scores, *gc.scores]
    assert "signal 9" in finished.report.read_text(encoding="utf-8")


def test_a_baseline_that_ends_its_process_is_an_error_and_nothing_is_left(tmp_path):
    model = host(tmp_path, "'none': (killed, 'train')")
    with pytest.raises(UsageError, match=r"host.py:doomed cannot be trained on images of .*: its process .* signal 9"):
        compare(model=model, attention="gc", at="conv", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_a_process_dies_that_was_at_no_variant_none_is_blamed(tmp_path):
    with (
        pytest.raises(TrialError, match="costs cannot be measured: its process ended with status 1: StopIteration"),
        Pool(tmp_path, load_data("sample"), 1) as pool,
    ):
        pool.measure(request(attention="se"), [Variant(name="of another request")])


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_comparison_that_ends_as_it_measures_leaves_no_process_and_nothing_in_the_way(tmp_path, ending):
    out, begun = tmp_path / "out", tmp_path / "begun"
    model = host(tmp_path, f"'gc': (lambda: [open({str(begun)!r}, 'w'), time.sleep(3600)], 'train')")
    words = ["--model", model, "--attention", "none,gc", "--at", "conv", "--seeds", "0,", "--epochs", "1"]
    process = subprocess.Popen([*COMMAND, *words, "--out", str(out)], stderr=subprocess.PIPE, start_new_session=True)
    with process:
        wait_for(begun.exists)
        assert len(workers(out)) == 2
        os.killpg(process.pid, ending)
        _, stderr = process.communicate(timeout=60)
    assert b"Traceback" not in stderr
    assert process.returncode == (130 if ending == signal.SIGINT else -ending)
    wait_for_no_workers(out)
    assert find_record(out, request()) is None, "the same command begins anew"
