"""``saccade cost``: what it prints, as a table and as data."""

import dataclasses
import json
import re

import pytest

import saccade.cli.cost
from saccade.cli import main
from saccade.nets import CifarResNet
from saccade.profiling.cost import measure
from saccade.profiling.timing import Timing

SMALL = ["cost", "saccade:cifar_resnet(depth=8, widths=(4, 8, 16))", "--batch-size", "4", "--threads", "1"]
WEIGHTS = sum(parameter.numel() for parameter in CifarResNet(8, widths=(4, 8, 16)).parameters())


@pytest.fixture(autouse=True)
def _without_repeats(monkeypatch):
    """The fewest runs: times are not what is tested here."""

    def hasty(*args, **options):
        return measure(*args, **options, budget_s=0)

    monkeypatch.setattr(saccade.cli.cost, "measure", hasty)


def run(words, monkeypatch, capsys) -> str:
    monkeypatch.setattr("sys.argv", ["saccade", *words])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    return capsys.readouterr().out


def test_the_host_and_each_variant_with_its_ratios(monkeypatch, capsys):
    text = run([*SMALL, "--attention", "se(reduction=2),aaconv"], monkeypatch, capsys)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[:2] == [SMALL[1], "images of 3 x 32 x 32 on cpu, 1 CPU thread"]
    assert re.split(r" {2,}| (?=latency|step|memory|params|MACs)", lines[3]) == [
        "network", "params", "MACs", "latency ms", "step ms", "memory MiB",
    ]  # fmt: skip
    assert lines[4].split()[:3] == ["none", f"{WEIGHTS / 1e3:.2f}", "k"]
    assert "×" not in lines[4]
    added = sum(2 * width * width // 2 for width in (4, 8, 16))
    assert lines[5].split()[:4] == [
        "se(reduction=2)", f"{(WEIGHTS + added) / 1e3:.2f}", "k", f"×{1 + added / WEIGHTS:.2f}",
    ]  # fmt: skip
    assert len(re.findall(r"×\d+\.\d\d", lines[5])) == 5
    assert [line for line in lines if line.startswith(("se(reduction=2):", "aaconv:"))] == [
        "se(reduction=2): 0.0 MiB on disk; attention at 3 sites (residual)",
        "aaconv: 0.0 MiB on disk; attention at 2 sites (layer[23].*.conv1)",
    ]


def test_every_time_has_its_percentiles_spread_runs_and_rate(monkeypatch, capsys):
    lines = run([*SMALL, "--attention", "se"], monkeypatch, capsys).splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("times in ms"))
    assert lines[first].split()[3:] == ["median", "p95", "spread", "runs", "images/s"]
    table = lines[first + 1 : lines.index("", first)]
    kinds = ["forward, 1 image", "forward, 4 images", "training step, 4 images"]
    assert [kind in line for line, kind in zip(table, 2 * kinds, strict=True)] == [True] * 6
    for line in table:
        median, p95, spread, runs, _ = map(float, line.split()[-5:])
        assert 0 < median <= p95
        assert spread >= 0
        assert runs >= 5


def test_as_data(monkeypatch, capsys):
    found = json.loads(run([*SMALL, "--attention", "none,se", "--at", "*.bn2", "--json"], monkeypatch, capsys))
    assert (found["schema"], found["batch_size"], found["threads"]) == ("saccade.cost/1", 4, 1)
    assert found["image"] == [3, 32, 32]
    host, se = found["variants"]
    assert (host["name"], host["at"], host["sites"], host["params"]) == ("none", None, [], WEIGHTS)
    assert set(host["ratios"].values()) == {1.0}
    assert (se["at"], se["sites"]) == ("*.bn2", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"])
    assert se["ratios"]["params"] == se["params"] / WEIGHTS
    assert se["latency"]["p50"] == se["latency_ms"]
    assert set(se["latency_one"]) == set(Timing.__dataclass_fields__)
    assert se["latency_compiled"] is None
    assert se["peak_memory_mib"] > host["peak_memory_mib"]


def test_multiply_accumulates_are_of_one_image(monkeypatch, capsys):
    found = [
        json.loads(run([*SMALL[:2], "--batch-size", size, "--no-train", "--json"], monkeypatch, capsys))
        for size in "14"
    ]
    assert found[0]["variants"][0]["macs"] == found[1]["variants"][0]["macs"]
    assert found[0]["variants"][0]["train_step_ms"] is None


def test_without_training(monkeypatch, capsys):
    text = run([*SMALL, "--no-train"], monkeypatch, capsys)
    assert "step" not in text.split("times in ms")[0]
    assert "training step, 4 images" not in text


def test_a_network_that_cannot_be_compiled_is_told(monkeypatch, capsys):
    def refuse(_model):
        def run(_x):
            raise RuntimeError("no compiler here")

        run.eval = lambda: None
        return run

    monkeypatch.setattr("torch.compile", refuse)
    text = run([*SMALL, "--no-train", "--compile"], monkeypatch, capsys)
    assert "none cannot be compiled: RuntimeError: no compiler here" in text


def test_compiled_times_are_of_both_batches(monkeypatch, capsys):
    monkeypatch.setattr("torch.compile", lambda model: model)
    lines = run([*SMALL, "--no-train", "--compile"], monkeypatch, capsys).splitlines()
    kinds = [kind for line in lines for kind in ("compiled, 1 image", "compiled, 4 images") if kind in line]
    assert kinds == ["compiled, 1 image", "compiled, 4 images"]


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_unsteady_times_are_told(spread, monkeypatch, capsys):
    timing = Timing(10.0, 12.0, spread, 5)

    def measured(*args, **options):
        costs = measure(*args, **options, budget_s=0)
        return {
            name: dataclasses.replace(cost, latency=timing, latency_one=timing, train_step=timing)
            for name, cost in costs.items()
        }

    monkeypatch.setattr(saccade.cli.cost, "measure", measured)
    text = run(SMALL, monkeypatch, capsys)
    assert ("measure again on a quiet machine" in text) == (spread == 3.0)
    assert max(map(len, text.splitlines())) <= 80


def test_identity_start_of_a_convolution_has_its_name(monkeypatch, capsys):
    words = [*SMALL, "--no-train", "--attention", "aaconv,iebn", "--start", "identity"]
    lines = run(words, monkeypatch, capsys).splitlines()
    assert "aaconv: 0.0 MiB on disk; attention at 2 sites (layer[23].*.conv1), residual form" in lines
    assert "iebn: 0.0 MiB on disk; attention at 9 sites (norm)" in lines


def test_image_size_and_large_maps(monkeypatch, capsys):
    words = ["cost", "test_resnet", "--image-size", "96", "--attention", "bot", "--no-train", "--json"]
    found = json.loads(run([*words, "--batch-size", "1"], monkeypatch, capsys))
    assert found["image"] == [3, 96, 96]
    assert found["model"] == "timm:test_resnet"
    sites = found["variants"][1]["sites"]
    assert sites
    assert "conv1.0" not in sites, "a map of 48 x 48 is left out"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet81"], "`model` (='resnet81') is no model of timm"),
        (["resnet18", "--attention", "gan"], "did you mean 'sagan' or 'gam'?"),
        (["resnet18", "--attention", "se,se"], "names the same variant twice"),
        (["resnet18", "--attention", "none(a=1)"], "the host 'none' has no options"),
        (["resnet18", "--attention", "se(ratio=2)"], "se has no option 'ratio'"),
        (["resnet18", "--attention", "se", "--at", "layer9"], "`at` (='layer9')"),
        (["resnet18", "--attention", "aaconv", "--at", "residual"], "'aaconv' takes a convolution's place"),
        (["resnet18", "--batch-size", "0"], "`--batch-size` (=0) must be an integer of at least 1"),
        (["resnet18", "--threads", "0"], "`--threads` (=0) must be an integer of at least 1"),
        (["resnet18", "--device", "gpu"], "`device` (='gpu') cannot be used here"),
        (["resnet18", "--image-size", "big"], "--image-size (='big') must be as 224"),
        (["resnet18", "--start", "later"], "`start` (='later') must be one of"),
        (["test_resnet", "--image-size", "1x96x96"], "cannot be run on an example of shape (1, 1, 96, 96)"),
    ],
)
def test_mistakes_are_one_line_and_status_2(words, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["saccade", "cost", *words])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("saccade: ")
    assert error.count("\n") == 1
