"""The catalogue: every name has a class, a card that tells all, and an error that helps."""

from __future__ import annotations

import inspect
import re

import pytest
from torch import nn

import saccade
from saccade.attention.catalog import MECHANISMS
from saccade.errors import UsageError

NAMES = saccade.list_attention()


def test_lists_by_kind_and_by_what_is_weighed() -> None:
    kinds = {
        "context": "nonlocal sagan gc a2 external",
        "conv": "aaconv sk coordconv bot halo lambda",
        "norm": "iebn",
        "warp": "stn",
        "position": "sine2d",
    }
    for kind, names in kinds.items():
        assert saccade.list_attention(kind=kind) == names.split()
    others = {name for names in kinds.values() for name in names.split()}
    assert saccade.list_attention(kind="gate") == [name for name in NAMES if name not in others]
    assert saccade.list_attention(kind="gate", attends="positions") == []
    assert saccade.list_attention(kind="conv", attends="positions") == ["aaconv", "bot", "halo", "lambda"]


def test_unknown_filters_are_errors() -> None:
    with pytest.raises(UsageError, match=r"`kind` \(='gat'\) must be one of .*did you mean 'gate'"):
        saccade.list_attention(kind="gat")
    with pytest.raises(UsageError, match=r"`attends` \(='space'\) must be one of 'channel', 'spatial'"):
        saccade.list_attention(attends="space")


@pytest.mark.parametrize("name", NAMES)
def test_the_card_names_the_paper_and_every_option(name: str) -> None:
    card = saccade.describe(name)
    signature = inspect.signature(MECHANISMS[name]).parameters.values()
    assert card.options == {p.name: p.default for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert card.name == name
    assert card.equations
    assert 2000 < card.year < 2100
    text = str(card)
    assert text.startswith(f"{name}: ")
    for part in (card.title, card.authors, card.arxiv or "", *card.equations, *card.deviations, *card.limits):
        assert part in text
    for option, default in card.options.items():
        assert f"  {option}={default!r}\n" in f"{text}\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_class_documents_its_arguments_shapes_and_errors(name: str) -> None:
    text = inspect.getdoc(MECHANISMS[name]) or ""
    arguments = text.partition("\nArgs:\n")[2].partition("\n\n")[0]
    headings = re.findall(r"^    ([a-z][\w, ]*):", arguments, re.MULTILINE)
    documented = [argument for heading in headings for argument in heading.split(", ")]
    assert sorted(documented) == sorted(inspect.signature(MECHANISMS[name]).parameters)
    assert "\nShapes: (B, " in text
    assert "\nRaises:\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_every_class_cites_its_paper(name: str) -> None:
    text, paper = inspect.getdoc(MECHANISMS[name]) or "", MECHANISMS[name].paper
    assert str(paper.year) in text or (paper.arxiv or "") in text
    assert paper.authors.partition(",")[0].split()[-1] in text


def test_the_catalogue_is_complete() -> None:
    names = (
        "aaconv se ge eca iebn sem cbam bam gam triplet stn nonlocal sagan gc coord sge shuffle psa simam sk coordconv "
        "sine2d bot halo lambda a2 external gala residual_mask"
    )
    assert names.split() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_creates_a_module_that_knows_its_paper(name: str) -> None:
    module = saccade.create_attention(name, 16)
    assert isinstance(module, nn.Module)
    assert module.paper.title == saccade.describe(name).title


def test_options_reach_the_module() -> None:
    assert saccade.create_attention("se", 16, reduction=2).fc1.out_features == 8
    assert saccade.create_attention("aaconv", 16, relative=False).attention.rel_h is None


@pytest.mark.parametrize("call", [saccade.describe, lambda name: saccade.create_attention(name, 8)])
def test_an_unknown_name_lists_all_and_names_the_nearest(call) -> None:
    with pytest.raises(UsageError, match=r"`attention` \(='gamm'\) must be one of 'aaconv', .*did you mean 'gam'"):
        call("gamm")
    with pytest.raises(UsageError, match=r"`attention` \(=\['se'\]\) must be one of 'aaconv'"):
        call(["se"])


@pytest.mark.parametrize("channels", [0, -8, 8.0, None])
def test_channels_must_be_a_count(channels: object) -> None:
    with pytest.raises(UsageError, match=r"`channels` \(=.*\) must be an integer of at least 1"):
        saccade.create_attention("se", channels)


def test_arguments_that_are_no_options_are_errors() -> None:
    with pytest.raises(UsageError, match=r"aaconv has no option 'stride'.* heads, kappa"):
        saccade.create_attention("aaconv", 8, stride=2)
