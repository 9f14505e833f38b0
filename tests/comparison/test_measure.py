"""Costs are measured in a process of its own: a variant that ends it is listed, and the rest is measured without."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from comparison.test_controls import request
from comparison.test_interruption import COMMAND, wait_for_no_workers, workers
from comparison.test_pool import forks, wait_for
from saccade.comparison import compare
from saccade.comparison.measure import measure_costs
from saccade.comparison.pool import Pool
from saccade.comparison.record import find_record
from saccade.comparison.request import Variant
from saccade.data import load_data
from saccade.errors import TrialError, UsageError

pytestmark = pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="finds processes in /proc, which this system has not"
)

HOST = """
import ctypes, os, signal, time
from pathlib import Path
import saccade
from torch import nn

def killed(): os.kill(os.getpid(), signal.SIGKILL)
def crashed(): ctypes.string_at(0)
def left(): os._exit(3)
def raised(): raise RuntimeError("not with the others")

def once():
    try:
        Path(__file__).with_name("once").touch(exist_ok=False)
    except FileExistsError:
        return
    killed()

# What each mechanism does to the network that it is in: when it trains, or at one of the runs that do not.
FATES = {{
    "se": (killed, "train"), "eca": (crashed, 20), "simam": (left, "train"), "sge": (raised, 2),
    "coord": (once, "train"), {more}
}}

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


MISTAKEN = """
from saccade.errors import UsageError
class Own(UsageError): pass
def own(**_): raise Own("no")
def bug(**_): {}["no such key"]
"""


def host(folder: Path, more: str = "") -> str:
    (folder / "host.py").write_text(HOST.format(more=more))
    return f"{folder / 'host.py'}:doomed"


def test_a_variant_that_ends_its_process_is_told_with_the_reason_and_the_rest_is_measured(tmp_path):
    """One of them ends it once alone, as where memory was short for a moment: tried again it is measured."""
    asked = request(model=host(tmp_path), attention="none,se,eca,simam,sge,coord,gc", at="conv")
    with Pool(tmp_path, load_data("sample"), 1) as pool:
        costs, unable = pool.measure(asked, asked.variants)
    assert (tmp_path / "once").exists()
    late = unable.pop("sge")
    assert unable == {
        "se": f"its process was ended by signal 9, {signal.strsignal(9)} (out of memory?)",
        "eca": f"its process was ended by signal 11, {signal.strsignal(11)}",
        "simam": "its process ended with status 3",
    }
    assert late.startswith("sge cannot be run")
    assert "not with the others" in late
    assert set(costs) == {variant.name for variant in asked.variants}
    measured = {name for name, cost in costs.items() if cost.params and cost.macs and cost.train_step_ms}
    assert measured == {"none", "coord", "gc"}
    assert all(costs[name].params is None for name in costs.keys() - measured)


def test_a_baseline_that_ends_its_process_ends_the_comparison_and_nothing_is_left(tmp_path):
    died = tmp_path / "died"
    model = host(tmp_path, f"'none': (lambda: [open({str(died)!r}, 'a').write('.'), killed()], 'train')")
    with pytest.raises(UsageError, match=r"host.py:doomed cannot be trained on images of .*: its process .* signal 9"):
        compare(model=model, attention="se,gc", at="conv", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(died.read_text()) == 2, "it is tried with the others and alone, and the others are not tried then"


def test_mistakes_are_told_as_such_and_bugs_with_their_line(tmp_path):
    file = tmp_path / "host.py"
    file.write_text(MISTAKEN)
    with Pool(tmp_path, load_data("sample"), 1) as pool:
        asked = request(model=f"{file}:own", attention="se")
        with pytest.raises(UsageError, match=r"^no$"):
            pool.measure(asked, asked.variants)
        asked = request(model=f"{file}:bug", attention="se")
        _, unable = pool.measure(asked, asked.variants)
    assert unable == {"none": f"KeyError: 'no such key' ({file}, line 5)"}
    with pytest.raises(UsageError, match=r"`options` .* must be values that JSON can hold"):
        request(attention=[{"attention": "se", "options": {"reduction": np.int64(8)}}])


def test_where_a_process_dies_that_was_at_no_variant_none_is_blamed(tmp_path):
    asked = request(attention="se")
    with Pool(tmp_path, load_data("sample"), 1) as pool:
        server = pool._start().server
        wait_for(lambda: len(forks(server)) == 1)
        os.kill(forks(server)[0], signal.SIGKILL)
        assert pool.measure(asked, asked.variants)[1] == {}, "another process measures"
        with pytest.raises(
            TrialError, match="costs cannot be measured: its process ended with status 1: StopIteration"
        ):
            pool.measure(asked, [Variant(name="of another request")])


def test_what_runs_is_told_beforehand_every_time(monkeypatch):
    """Building, runs, compiling, training: whenever it dies, the last one that was told of is the one that did."""
    told, runs = [], []

    class Watched(nn.Sequential):
        def forward(self, x):
            runs.append(told[-1])
            assert getattr(self, "name", told[-1]) == told[-1]
            return super().forward(x)

    def build(_request, variant, *_):
        assert variant.name == told[-1]
        model = Watched(nn.Conv2d(1, 4, 3), nn.Flatten())
        model.name = variant.name
        return model

    monkeypatch.setattr("saccade.comparison.measure.build_variant", build)
    monkeypatch.setattr(torch, "compile", lambda model: model)
    asked = request(attention="se,eca", compile=True)
    costs, unable = measure_costs(asked, load_data("sample"), asked.variants, {}, told.append)
    assert unable == {}
    assert None not in [cost.latency_compiled_ms for cost in costs.values()]
    assert len(runs) > 3 * 5 * 5


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_comparison_that_ends_as_it_measures_leaves_no_process_and_nothing_in_the_way(tmp_path, ending):
    out, begun = tmp_path / "out", tmp_path / "begun"
    model = host(tmp_path, f"'gc': (lambda: [open({str(begun)!r}, 'w'), time.sleep(3600)], 'train')")
    words = ["--model", model, "--attention", "none,gc", "--at", "conv", "--seeds", "0,", "--epochs", "1"]
    process = subprocess.Popen([*COMMAND, *words, "--out", str(out)], stderr=subprocess.PIPE, start_new_session=True)
    with process:
        try:
            wait_for(begun.exists, seconds=120)
            assert len(workers(out)) == 2
            os.killpg(process.pid, ending)
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert b"Traceback" not in stderr
    assert process.returncode == (130 if ending == signal.SIGINT else -ending)
    wait_for_no_workers(out)
    assert find_record(out, request()) is None, "the same command begins anew"
