"""What commands print."""

import inspect
import json
import re
import sys

import pytest

import saccade
from saccade.cli import commands, main
from saccade.nets.networks import NETWORKS
from terminal import run_on_a_terminal


def run(words: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr("sys.argv", ["saccade", *words.split(" ")])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    return capsys.readouterr().out


def test_list_names_every_mechanism(monkeypatch, capsys):
    lines = run("list", monkeypatch, capsys).splitlines()
    assert lines[0].split() == ["name", "kind", "attends", "year", "params", "MACs", "paper"]
    assert [line.split()[0] for line in lines[1 : lines.index("")]] == saccade.list_attention()
    se = next(line for line in lines if line.startswith("se "))
    assert "8,192" in se
    assert "0.06 M" in se
    assert "Squeeze-and-Excitation Networks" in se
    assert lines[-1].endswith("a plain one costs 589,824 and 115.61 M.")


def test_list_as_data_has_the_numbers_of_the_modules(monkeypatch, capsys):
    entries = json.loads(run("list --json", monkeypatch, capsys))
    assert [entry["name"] for entry in entries] == saccade.list_attention()
    for entry in entries:
        module = saccade.create_attention(entry["name"], 256)
        assert entry["params"] == sum(p.numel() for p in module.parameters())
        assert (entry["channels"], entry["height"], entry["width"]) == (256, 14, 14)
    se = entries[saccade.list_attention().index("se")]
    assert se["macs"] == 2 * 256 * 16 + 256 * 14 * 14
    assert (se["kind"], se["attends"], se["year"], se["arxiv"]) == ("gate", "channel", 2018, "1709.01507")


def test_list_as_data_keeps_to_what_was_asked(monkeypatch, capsys):
    entries = json.loads(run("list --kind conv --json", monkeypatch, capsys))
    assert [entry["name"] for entry in entries] == saccade.list_attention(kind="conv")


def test_list_keeps_to_what_was_asked(monkeypatch, capsys):
    lines = run("list --attends channel", monkeypatch, capsys).splitlines()
    named = {line.split()[0] for line in lines[1 : lines.index("")]}
    assert named == set(saccade.list_attention(attends="channel"))
    assert "se" in named
    assert "gam" not in named


def test_describe_prints_the_card(monkeypatch, capsys):
    text = run("describe gam", monkeypatch, capsys)
    for part in ("arXiv 2112.05561", "kind gate, attends channel+spatial", "reduction=4", "105 M at C = 2048"):
        assert part in text


def test_describe_tells_the_cost_at_common_sizes(monkeypatch, capsys):
    lines = run("describe gam", monkeypatch, capsys).splitlines()
    cost = [line.split() for line in lines[lines.index("Cost") + 1 :]]
    assert [" ".join(words[:6]) for words in cost] == [
        "C = 64, 56 x 56",
        "C = 256, 14 x 14",
        "C = 512, 7 x 7",
        "C = 2048, 7 x 7",
    ]
    hidden = 2048 // 4
    params = 2 * 2048 * hidden + 2 * 49 * 2048 * hidden + 2 * (hidden + 2048) + 2 * (hidden + 2048)
    assert cost[-1][6:8] == [f"{params:,}", "parameters"]
    macs = 49 * (2 * 2048 * hidden + 2 * 49 * 2048 * hidden + 2 * 2048)
    assert cost[-1][8:] == [f"{macs:,}", "MACs"]


def test_help_names_the_commands(monkeypatch, capsys):
    text = run("--help", monkeypatch, capsys)
    for command in ("compare", "describe", "list", "report"):
        assert command in text


def test_the_defaults_are_those_of_the_function():
    """They are written twice so that ``--help`` loads no torch."""
    shown = inspect.signature(commands.compare).parameters
    meant = inspect.signature(saccade.compare).parameters
    assert set(meant) - set(shown) == {"on_setting", "on_event"}
    assert set(shown) - set(meant) == {"context", "config"}
    for name in set(shown) & set(meant) - {"control"}:
        assert str(shown[name].default) == str(meant[name].default), name
    assert (shown["control"].default, meant["control"].default) == ("", ())


def test_sites_prints_the_table_and_where_its_sizes_are_from(monkeypatch, capsys):
    lines = run("sites saccade:cifar_resnet(depth=8)", monkeypatch, capsys).splitlines()
    assert lines[0].split() == ["path", "kind", "channels", "map", "stride"]
    assert lines[1].split() == ["layer1.0.bn2", "residual", "16", "32", "x", "32", "1"]
    assert lines[-2] == "Maps for an input of 3 x 32 x 32 (the host's pretrained_cfg)."
    assert lines[-1] == "Sites in all: 3 residual, 7 conv, 2 pointwise, 9 norm, 3 block, 3 stage, 1 input."


def test_sites_keeps_to_what_was_asked_and_names_what_is_left_out(monkeypatch, capsys):
    words = "sites resnet18 --at conv,layer1.0.bn1 --stages deepest:2 --max-positions 20 --image-size 96x128"
    lines = run(words, monkeypatch, capsys).splitlines()
    assert [line.split()[0] for line in lines[1 : lines.index("")]] == [
        f"layer4.{b}.conv{c}" for b in "01" for c in "12"
    ]
    assert lines[lines.index("") + 1].startswith("stages='deepest:2' leaves out 10: conv1, layer1.0.conv1")
    assert "max_positions=20 leaves out 4: layer3.0.conv1, layer3.0.conv2, layer3.1.conv1, layer3.1.conv2" in lines


def test_sites_as_data(monkeypatch, capsys):
    found = json.loads(run("sites torchvision:resnet18 --at stage --json", monkeypatch, capsys))
    assert [site["path"] for site in found["sites"]] == ["relu", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    assert found["sites"][1] | {"path": "", "calls": 1} == {
        "path": "", "kind": "stage", "channels": 64, "height": 56, "width": 56, "stride": 4, "layout": "nchw",
        "calls": 1, "in_size": [56, 56],
    }  # fmt: skip
    assert found["notes"] == ["Maps for an input of 3 x 224 x 224 (the default; give `example_input` for another)."]


def test_networks_are_listed_with_the_origin_of_their_places(monkeypatch, capsys):
    few = ("ge_wrn28_10", "residual_attention_92", "residual_attention_236")
    monkeypatch.setattr("saccade.cli.networks.NETWORKS", {name: NETWORKS[name] for name in few})
    lines = run("list --networks", monkeypatch, capsys).splitlines()
    assert lines[0].split() == ["name", "params", "paper's", "params", "MACs", "paper's", "MACs", "host", "source"]
    assert tuple(line.split()[0] for line in lines[1 : lines.index("")]) == few
    assert lines[-1].startswith(
        "residual_attention_92, residual_attention_236: a trunk of its own; widths chosen by us"
    )
    assert "the documentation's page on networks" in lines[-4]


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_networks_are_counted_before_the_eyes_of_a_terminal():
    few = "{name: networks.NETWORKS[name] for name in ('residual_attention_92', 'stn_resnet20')}"
    code = f"from saccade.cli import networks; networks.NETWORKS = {few}; networks.print_networks(as_json=True)"
    status, text = run_on_a_terminal([sys.executable, "-c", code])
    assert status == 0, text
    assert re.search(r"counting .*100%", text)
    assert json.loads(text[text.index("[\r\n  {") :])[0]["name"] == "residual_attention_92"
