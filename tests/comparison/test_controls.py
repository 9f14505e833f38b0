"""Controls get the dearest variant's compute; tuning tries the same for all; a pretrained host is what it was."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import saccade
from comparison.conftest import SMALL
from nets.kept import kept
from nets.test_pretrained import IMAGENET
from saccade.cli import main
from saccade.comparison import compare
from saccade.comparison.control import settle, wider
from saccade.comparison.record import Record, alone, read_record
from saccade.comparison.request import make_request
from saccade.comparison.statistics import paired_difference, verdict
from saccade.comparison.trial import (
    Trial,
    build_variant,
    candidates,
    read_metrics,
    read_result,
    run_trial,
    trial_folder,
)
from saccade.data import ImageData, load_data
from saccade.errors import UsageError
from saccade.nets import build_model
from saccade.profiling.macs import count_macs
from saccade.report.results import Measured
from saccade.training.fit import fit
from training.runs import HOST, image_folder


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("controlled") / "out"
    asked = SMALL | {"attention": "none,se,gam(reduction=8)", "control": "longer,wider", "tune": 2}
    compare(**asked, jobs=2, out=out)
    return out


def request(**changes):
    asked = SMALL | {"data": "sample", "margin": 0.5, "batch_size": 64, "weight_decay": 5e-4} | changes
    return make_request(**asked)


def cost(step: float) -> Measured:
    return Measured(sites=[], at=None, params=1, macs=1, latency_ms=1.0, train_step_ms=step)


@pytest.mark.parametrize(
    ("steps", "epochs"), [((10, 10, 9), 4), ((10, 12, 11), 5), ((10, 15, 25), 10), ((10, 5, 5), 4)]
)
def test_the_longer_control_has_the_epochs_that_the_dearest_variant_has_time_for(steps, epochs):
    asked = request(attention="none,se,sem", control="longer", epochs=4)
    settled = settle(
        asked, load_data("sample"), {n: cost(s) for n, s in zip(("none", "se", "sem"), steps, strict=True)}
    )
    assert settled["longer"].epochs == epochs
    assert settled["longer"].model == asked.model


@pytest.mark.parametrize(
    ("model", "option"),
    [
        (SMALL["model"], "widths"),
        ("torchvision:mobilenet_v2", "width_mult"),
        ("torchvision:resnet50", "width_per_group"),
        ("saccade:cifar_resnet(depth=8, widths=[8, 16, 32])", "widths"),
    ],
)
def test_the_wider_control_is_the_narrowest_with_the_compute(model, option):
    data = load_data("sample") if model.startswith("saccade") else noise()
    ratio = 1.3

    def macs(name: str) -> int:
        host = build_model(name, in_channels=data.shape[0], num_classes=len(data.classes))
        return count_macs(host, torch.zeros(1, *data.shape))

    name = wider(model, data, ratio, macs(model))
    assert option in name
    assert macs(name) >= ratio * macs(model)
    assert macs(name) < 1.25 * ratio * macs(model)


@pytest.mark.parametrize("model", ["torchvision:alexnet", "timm:resnet18"])  # the second has one, and refuses it
def test_a_host_without_a_known_width_has_no_wider_control(model):
    with pytest.raises(UsageError, match=rf"`control` \(='wider'\): {model} has no width that is known"):
        wider(model, noise(64), 1.5, 10**6)


def test_controls_stand_beside_every_variant(controlled):
    results = json.loads((controlled / "results.json").read_text())
    settled = json.loads((controlled / "comparison.json").read_text())["controls"]
    longer, wide = results["controls"]
    assert (longer["name"], wide["name"]) == ("longer", "wider")
    assert longer["epochs"] == settled["longer"]["epochs"] > 1
    assert len(read_metrics(controlled, Trial("longer", 0))) == longer["epochs"]
    assert (wide["epochs"], longer["params"]) == (1, results["variants"][0]["params"])
    assert wide["params"] > longer["params"]
    for variant in results["variants"][1:]:
        for control in (longer, wide):
            beside = variant["against"][control["name"]]
            expected = paired_difference(variant["scores"], control["scores"], 2)
            assert beside["difference"] == expected.model_dump()
            assert beside["verdict"] == verdict(expected, 0.5)
    assert results["variants"][0]["against"] == {}
    for other in (*results["variants"][1:], longer, wide):
        expected = paired_difference(other["scores"], results["variants"][0]["scores"], 4)
        assert other["difference"] == expected.model_dump(), "beside the baseline stand two variants and two controls"
    settled = json.loads((controlled / "comparison.json").read_text())["controls"]["longer"]
    said = (
        f"longer: {settled['epochs']} epochs; the training step of {settled['dearest']} takes {settled['ratio']:.2f} "
    )
    assert any(note.startswith(said) for note in results["notes"])


def test_a_control_keeps_its_length_when_a_comparison_goes_on(controlled):
    before = (controlled / "comparison.json").read_bytes()
    (trial_folder(controlled, Trial("longer", 1)) / "result.json").unlink()
    events = []
    asked = SMALL | {"attention": "none,se,gam(reduction=8)", "control": "longer,wider", "tune": 2}
    compare(**asked, jobs=1, out=controlled, on_event=events.append)
    assert {(event.trial.variant, event.trial.seed) for event in events} == {("longer", 1)}
    assert (controlled / "comparison.json").read_bytes() == before


def test_tuning_chooses_by_validation_alone_and_each_variant_had_the_same_tries(controlled):
    record = read_record(controlled)
    tried = candidates(record.asked)
    assert (tried[0], len(tried)) == (record.asked.settings, 2)
    results = json.loads((controlled / "results.json").read_text())
    for variant in record.asked.variants:
        tries = [Trial(variant.name, record.asked.tuning_seed, number) for number in (0, 1)]
        scores = [read_result(controlled, each) for each in tries]
        for number, score in enumerate(scores):
            folder = trial_folder(controlled, tries[number])
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            assert score == lines[-1]["val_accuracy"]
            assert not (folder / "checkpoint.safetensors").exists()
        best = tried[scores.index(max(scores))].optim
        shown = next(each for each in results["variants"] if each["name"] == variant.name)
        assert (shown["lr"], shown["weight_decay"]) == (best.lr, best.weight_decay)
    assert record.asked.tuning_seed not in record.asked.seeds
    baseline = results["variants"][0]
    assert all(control["lr"] == baseline["lr"] for control in results["controls"])


def test_a_pretrained_host_starts_as_what_it_was(tmp_path, monkeypatch):
    state = kept("squeezenet1_1", tmp_path, monkeypatch)
    data = f"imagefolder:{image_folder(tmp_path / 'images', train=12, others=4)}"
    asked = {"model": "torchvision:squeezenet1_1", "data": data, "image_size": 32, "pretrained": True}
    finished = compare(
        **asked, attention="se", at="conv", seeds=1, epochs=1, batch_size=8, out=tmp_path / "out", jobs=1
    )
    record = read_record(finished.folder)
    assert [variant.start for variant in record.asked.variants] == [None, "identity"]
    images = load_data(data, 32)
    host, with_se = (build_variant(record.asked, variant, images, 0) for variant in record.asked.variants)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(host.eval()(x), with_se.eval()(x))
    assert all(torch.equal(host.state_dict()[key], state[key]) for key in state if not key.startswith("classifier.1"))


@pytest.mark.slow
def test_a_comparison_that_is_killed_while_it_tunes_ends_the_same(controlled, tmp_path):
    words = [
        sys.executable,
        "-m",
        "saccade.cli",
        *shlex.split(read_record(controlled).asked.command(tmp_path / "out"))[1:],
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("[1/") for line in process.stdout), "it ended before its first try"
        process.kill()
    assert not list((tmp_path / "out").glob("trials/*/result.json"))
    subprocess.run(words, check=True, capture_output=True)
    ours, theirs = (json.loads((folder / "comparison.json").read_text()) for folder in (tmp_path / "out", controlled))
    assert ours["tuned"] == theirs["tuned"]
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "out", controlled))
    assert [each["scores"] for each in ours["variants"]] == [each["scores"] for each in theirs["variants"]]


def test_the_command_compares_on_a_pretrained_host_of_timm(tmp_path, monkeypatch, capsys):
    weights = timm.create_model("test_resnet").state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    model = f"timm:test_resnet(pretrained_cfg_overlay={{'file': {str(tmp_path / 'weights.pth')!r}}})"
    data = f"imagefolder:{image_folder(tmp_path / 'images', train=12, others=4)}"
    words = ["compare", "--model", model, "--pretrained", "--start", "identity", "--data", data, "--image-size", "32"]
    words += ["--attention", "none,se", "--seeds", "0,", "--epochs", "1", "--batch-size", "8", "--jobs", "1"]
    monkeypatch.setattr("sys.argv", ["saccade", *words, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    assert "report.html" in capsys.readouterr().out
    record = read_record(tmp_path / "out")
    none, se = record.asked.variants
    assert (record.asked.pretrained, se.start) == (True, "identity")
    for variant in (none, se):
        state = build_variant(record.asked, variant, load_data(data, 32), 0).state_dict()
        assert all(torch.equal(state[key], weights[key]) for key in weights if not key.startswith("fc."))


def test_a_pretrained_host_is_trained_on_images_as_its_weights_know_them(tmp_path, monkeypatch):
    kept("squeezenet1_1", tmp_path, monkeypatch)
    name = f"imagefolder:{image_folder(tmp_path / 'images', train=12, others=4)}"
    seen = []

    def watched(model, data, *given, **named):
        seen.append([part.flatten().tolist() for part in data.statistics])
        return fit(model, data, *given, **named)

    monkeypatch.setattr("saccade.training.fit.fit", watched)
    for pretrained in (True, False):
        asked = request(
            model="torchvision:squeezenet1_1", data=name, image_size=32, pretrained=pretrained, attention="se",
            at="conv", seeds=1, epochs=1, batch_size=8, lr=0.01,
        )  # fmt: skip
        record = Record.model_construct(asked=asked, costs={}, controls={}, tuned={})
        run_trial(record, Trial("none", 0), load_data(name, 32), tmp_path / f"out-{pretrained}", lambda epoch: None)
    assert seen[0] == [pytest.approx(part, rel=1e-6) for part in IMAGENET]
    assert seen[1] != seen[0]


COUNTED = """
from pathlib import Path
from torch import nn

def counted(in_channels, num_classes):
    builds = Path(__file__).with_name("builds")
    builds.write_text(builds.read_text() + "." if builds.exists() else ".")
    if builds.stat().st_size == 4:
        raise RuntimeError("no luck")
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, num_classes))
"""


def test_a_try_of_tuning_that_fails_is_told(tmp_path):
    (tmp_path / "host.py").write_text(COUNTED)
    # Two builds to measure, then each variant's first try: the second of these fails.
    asked = {"model": f"{tmp_path / 'host.py'}:counted", "data": "sample", "attention": "none,se", "at": "conv"}
    finished = compare(**asked, seeds=1, epochs=1, tune=2, lr=0.01, jobs=1, out=tmp_path / "out")
    assert "1 of 2 tries of tuning se failed; the first: RuntimeError: no luck" in finished.results.notes
    assert finished.results.failed == []


def test_where_every_try_fails_the_variant_is_trained_as_asked_and_told(tmp_path):
    (tmp_path / "host.py").write_text(COUNTED.replace("== 4", "in (4, 6, 8)"))  # of se the tries and the trial
    asked = {"model": f"{tmp_path / 'host.py'}:counted", "data": "sample", "attention": "none,se", "at": "conv"}
    finished = compare(**asked, seeds=1, epochs=1, tune=2, lr=0.01, jobs=1, out=tmp_path / "out")
    notes = finished.results.notes
    assert "2 of 2 tries of tuning se failed; the first: RuntimeError: no luck" in notes
    assert "se: learning rate 0.01, weight decay 0.0005, as asked for, since every try failed." in notes
    assert any(re.match(r"none: learning rate .*, chosen by tuning\.", note) for note in notes)


GREEDY = """
import os, signal
import saccade
from torch import nn

class Greedy(nn.Sequential):
    def forward(self, x):
        attention = [edit.attention for edit in saccade.plan_of(self).edits]
        if self.training and attention == ["se"]:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        if self.training and attention == ["eca"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

def greedy(in_channels, num_classes):
    return Greedy(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, num_classes))
"""


def test_a_variant_that_memory_does_not_suffice_for_is_listed_and_the_rest_goes_on(tmp_path):
    (tmp_path / "host.py").write_text(GREEDY)
    attention = "none,se,eca,gc"  # the second is told by PyTorch, the third is killed by the system
    asked = {"model": f"{tmp_path / 'host.py'}:greedy", "attention": attention, "at": "conv", "control": "longer"}
    finished = compare(**asked, seeds=2, epochs=1, lr=0.01, jobs=1, out=tmp_path / "out")
    none, se, eca, gc = finished.results.variants
    assert [se.scores, eca.scores] == [[None, None]] * 2
    assert (se.latency_ms, se.macs, eca.params, eca.sites) == (None, None, None, [])
    assert se.params > none.params
    assert se.sites == ["0"]
    failed = {(each.name, each.seed) for each in finished.results.failed}
    assert failed == {(name, seed) for name in ("se", "eca") for seed in (0, 1)}
    reasons = {each.name: each.reason for each in finished.results.failed}
    assert "can't allocate memory" in reasons["se"]
    assert "signal 9" in reasons["eca"]
    assert None not in [*none.scores, *gc.scores]
    page = finished.report.read_text(encoding="utf-8")
    assert "allocate memory" in page
    assert "signal 9" in page


UNCOMPILED = """
import saccade, torch
from torch import nn

def compiled(model):
    if any(edit.attention == "eca" for edit in saccade.plan_of(model).edits):
        raise RuntimeError("no compiler here")
    return model

torch.compile = compiled  # in the process that measures

def plain(in_channels, num_classes):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, num_classes))
"""


def test_compiled_latency_is_measured_where_it_is_asked_for_and_a_failure_told(tmp_path):
    """PyTorch's compiler itself is at work in the tests of `saccade cost`; here it stands aside, or fails."""
    (tmp_path / "host.py").write_text(UNCOMPILED)
    out = tmp_path / "out"
    asked = {"model": f"{tmp_path / 'host.py'}:plain", "attention": "none,se,eca", "at": "conv", "compile": True}
    with pytest.raises(UsageError, match="no compiler here"):
        compare(**asked, out=out, on_setting=tell_notes)
    costs = read_record(out).costs
    assert costs["none"].latency_compiled_ms > 0
    assert costs["se"].latency_compiled_ms > 0
    assert costs["eca"].latency_compiled_ms is None
    assert read_record(out).asked.command(out).count("--compile") == 1


def tell_notes(setting):
    raise UsageError("; ".join(setting.notes))


def test_a_second_process_on_a_folder_is_told(tmp_path):
    told = pytest.raises(UsageError, match=r"`out` .* another process is at work on this comparison")
    with alone(tmp_path / "out", request()), told:
        compare(**SMALL, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plan_trains_as_the_same_attention_by_name(tmp_path):
    """A plan and the mechanism that it says are one network; the two have the same weights before training."""
    host = build_model(SMALL["model"], in_channels=1, num_classes=10)
    image = torch.zeros(1, 1, 28, 28)
    (tmp_path / "plan.json").write_text(
        saccade.plan_of(saccade.augment(host, "se", start="paper", example_input=image)).to_json()
    )
    asked = request(attention=f"none,se,plan(file={str(tmp_path / 'plan.json')!r})")
    data = load_data("sample")
    by_name, by_plan = (build_variant(asked, variant, data, 3).state_dict() for variant in asked.variants[1:])
    assert list(by_name) == list(by_plan)
    assert all(torch.equal(by_name[key], by_plan[key]) for key in by_name)


def noise(side: int = 32) -> ImageData:
    from saccade.data import Split

    split = Split(torch.zeros(4, 3, side, side, dtype=torch.uint8), torch.arange(4))
    return ImageData("noise", ["a", "b", "c", "d"], split, split, split)


def test_a_comparison_is_a_table_of_its_trials(finished):
    table = finished.to_pandas()
    assert list(table.columns[:3]) == ["variant", "seed", "accuracy"]
    scores = {(row.variant, row.seed): row.accuracy for row in table.itertuples()}
    variants = finished.results.variants
    assert scores == {(v.name, s): score for v in variants for s, score in enumerate(v.scores)}
    assert set(table.params) == {variant.params for variant in variants}


def test_a_host_from_an_edited_file_is_another_comparison(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(HOST)
    asked = {"model": f"{file}:dropping", "attention": "se", "at": "conv", "seeds": 1, "epochs": 1, "jobs": 1}
    compare(**asked, out=tmp_path / "out")
    compare(**asked, out=tmp_path / "out")
    file.write_text(HOST.replace("0.2", "0.3"))
    with pytest.raises(UsageError, match=r"the file of .*/mine.py:dropping has changed since the comparison in"):
        compare(**asked, out=tmp_path / "out")
