"""What commands print."""

import inspect

import pytest

import saccade
from saccade.cli import commands, main


def run(words: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr("sys.argv", ["saccade", *words.split(" ")])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    return capsys.readouterr().out


def test_list_names_every_mechanism(monkeypatch, capsys):
    lines = run("list", monkeypatch, capsys).splitlines()
    assert {line.split()[0] for line in lines[1:]} == set(saccade.list_attention())


def test_list_keeps_to_what_was_asked(monkeypatch, capsys):
    lines = run("list --attends channel", monkeypatch, capsys).splitlines()
    named = {line.split()[0] for line in lines[1:]}
    assert named == set(saccade.list_attention(attends="channel"))
    assert "se" in named
    assert "gam" not in named


def test_describe_prints_the_card(monkeypatch, capsys):
    text = run("describe gam", monkeypatch, capsys)
    for part in ("arXiv 2112.05561", "kind gate, attends channel+spatial", "reduction=4", "105 M at C = 2048"):
        assert part in text


def test_help_names_the_commands(monkeypatch, capsys):
    text = run("--help", monkeypatch, capsys)
    for command in ("compare", "describe", "list", "report"):
        assert command in text


def test_the_defaults_are_those_of_the_function():
    """They are written twice so that ``--help`` loads no torch."""
    shown = inspect.signature(commands.compare).parameters
    meant = inspect.signature(saccade.compare).parameters
    assert set(meant) - set(shown) == {"on_setting", "on_event"}
    for name, parameter in shown.items():
        assert str(parameter.default) == str(meant[name].default), name
