"""A plan is data: written down and read back it is the same plan, which gives the same network from the same host."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision import models

import saccade
from saccade.errors import UsageError
from saccade.nets import CifarResNet
from saccade.surgery import Edit, Plan
from surgery.hosts import cifar, images, set_alpha, settle

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
edits = st.builds(
    Edit,
    site=st.text(max_size=20),
    mode=st.sampled_from(["after", "replace", "before"]),
    attention=st.text(max_size=10),
    options=st.dictionaries(st.text(max_size=10), values, max_size=4),
    start=st.sampled_from(["paper", "identity"]),
)


@given(st.lists(edits, max_size=4))
def test_every_plan_equals_the_one_read_back_from_its_json(chosen: list[Edit]) -> None:
    plan = Plan(tuple(chosen))
    assert Plan.from_json(plan.to_json()) == plan


def test_the_file_has_the_documented_form() -> None:
    plan = Plan((Edit("layer1.0.bn2", "after", "se", {"reduction": 4}, "paper"),))
    assert json.loads(plan.to_json()) == {
        "schema": "saccade.plan/1",
        "edits": [
            {"site": "layer1.0.bn2", "mode": "after", "attention": "se", "options": {"reduction": 4}, "start": "paper"}
        ],
    }


def test_a_plan_of_a_live_network_survives_json() -> None:
    model = saccade.augment(
        cifar(), "aaconv", at="layer3.*.conv1", options={"feature_size": (10, 8), "kappa": 0.25}, example_input=images()
    )
    plan = saccade.plan_of(model)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.edits[0].options == {"feature_size": [10, 8], "kappa": 0.25}


def test_options_of_an_edit_are_its_own() -> None:
    options = {"feature_size": [7, 5]}
    edit = Edit("conv", "replace", "aaconv", options)
    options["feature_size"].append(3)
    assert edit.options == {"feature_size": [7, 5]}


def test_prints_one_line_per_edit() -> None:
    plan = Plan((Edit("a.bn2", "after", "se", {"reduction": 4}), Edit("b.conv", "replace", "aaconv", start="paper")))
    assert str(plan).splitlines() == [
        "se(reduction=4) after a.bn2, start=identity",
        "aaconv() replace b.conv, start=paper",
    ]
    assert len(plan) == 2
    assert str(Plan()) == "no edits"


ENTRY = {"site": "a", "mode": "after", "attention": "se", "options": {}, "start": "paper"}


def written(**changes: Any) -> str:
    return json.dumps({"schema": "saccade.plan/1", "edits": [ENTRY | changes]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a plan: Expecting value"),
        ("{", "not a plan: Expecting property name"),
        ("3", r"not a plan of schema 'saccade.plan/1': its schema is None"),
        ("[]", r"not a plan of schema 'saccade.plan/1': its schema is None"),
        ('{"schema": "saccade.plan/2", "edits": []}', r"not a plan of .*: its schema is 'saccade.plan/2'"),
        ('{"schema": "saccade.plan/1"}', r"its `edits` \(=None\) must be a list"),
        ('{"schema": "saccade.plan/1", "edits": {}}', r"its `edits` \(=\{\}\) must be a list"),
        ('{"schema": "saccade.plan/1", "edits": ["se"]}', r"not an edit of a plan: 'se' must have exactly the keys"),
        (written(more=1), r"must have exactly the keys \['attention', 'mode', 'options', 'site', 'start'\]"),
        (written(site=3), r"must have text as `site` and `attention` and a mapping as `options`; `site` is not"),
        (written(attention=None), "`attention` is not"),
        (written(options=[]), "`options` is not"),
        (written(mode="instead"), r"`mode` \(='instead'\) must be one of 'after', 'replace', 'before'"),
        (written(mode=["after"]), r"`mode` \(=\['after'\]\) must be one of"),
        (written(start="zero"), r"`start` \(='zero'\) must be one of 'paper', 'identity'"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), float("inf"), b"x"], ids=lambda v: type(v).__name__)
def test_options_that_json_cannot_hold_are_errors(value: object) -> None:
    with pytest.raises(UsageError, match=r"`options` \(=.*\) must be values that JSON can hold"):
        Edit("a", "after", "se", {"reduction": value})


def several() -> nn.Module:
    """Edits of every mode and start, two of them at one site, one of them twice."""
    host = cifar()
    model = saccade.augment(host, "aaconv", at="layer3.0.conv1", start="paper", example_input=images())
    model = saccade.augment(model, "se", at=["layer3.0.conv1", "layer2.0.bn2"], options={"reduction": 4})
    model = saccade.augment(model, "gam", at="layer2.0.bn2", start="paper")
    model = saccade.augment(model, "se", at="layer2.0.bn2", start="paper", force=True)
    model = saccade.augment(model, "iebn", at="layer1.0.bn1")
    model = saccade.augment(model, "stn", at="input")
    set_alpha(model, 0.5)
    return model.eval()


def test_a_plan_from_json_gives_the_same_network_from_a_fresh_host() -> None:
    model = several()
    plan = saccade.plan_of(model)
    fresh = cifar()
    replayed = saccade.apply_plan(fresh, Plan.from_json(plan.to_json()), example_input=images())
    assert saccade.plan_of(replayed) == plan
    assert list(replayed.state_dict()) == list(model.state_dict())
    replayed.load_state_dict(model.state_dict())
    assert torch.equal(replayed(images()), model(images()))
    assert len(saccade.plan_of(fresh)) == 0


@pytest.mark.parametrize("start", ["identity", "paper"])
@pytest.mark.parametrize("attention", saccade.list_attention())
def test_a_plan_of_every_mechanism_builds_the_same_from_another_example(attention: str, start: str) -> None:
    """What a mechanism takes from the sizes of the maps is written in the plan."""
    at = {"conv": "layer3.*.conv1", "norm": "layer3.*.bn2"}.get(saccade.describe(attention).kind, "layer3.*.bn2")
    model = saccade.augment(cifar(), attention, at=at, start=start, example_input=images())
    plan = Plan.from_json(saccade.plan_of(model).to_json())
    replayed = saccade.apply_plan(cifar(), plan)  # of 224 x 224
    assert saccade.plan_of(replayed) == plan
    replayed.load_state_dict(model.state_dict())
    assert torch.equal(replayed(images()), model(images()))


def test_a_plan_for_another_host_is_an_error_with_the_nearest_path() -> None:
    plan = saccade.plan_of(saccade.augment(CifarResNet(14, widths=(8, 16, 32)), "se", at="layer1.1.bn2"))
    with pytest.raises(UsageError, match=r"the host has no module at 'layer1.1.bn2' \(did you mean .*'layer1.0.bn2'"):
        saccade.apply_plan(cifar(), plan)
    bottleneck = settle(models.resnet50(num_classes=3))
    deeper = Plan((Edit("layer1.0.conv1", "replace", "aaconv", {}, "paper"), Edit("fc", "after", "se")))
    with pytest.raises(UsageError, match=r"'fc' does not give a map of shape"):
        saccade.apply_plan(bottleneck, deeper)
    with pytest.raises(UsageError, match=r"'iebn' takes the place of a plain nn.BatchNorm2d, and 'layer1' is a Seq"):
        saccade.apply_plan(cifar(), Plan((Edit("layer1", "replace", "iebn"),)), example_input=images())


def test_an_unknown_mechanism_or_option_in_a_plan_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"`attention` \(='sse'\) must be one of .*'se'"):
        saccade.apply_plan(cifar(), Plan((Edit("bn1", "after", "sse"),)))
    with pytest.raises(UsageError, match=r"has no option 'reductions' \(did you mean 'reduction'"):
        saccade.apply_plan(cifar(), Plan((Edit("bn1", "after", "se", {"reductions": 2}),)))
    with pytest.raises(UsageError, match=r"`plan` \(='se'\) must be a saccade.Plan; Plan.from_json\(text\) reads one"):
        saccade.apply_plan(cifar(), "se")


def test_a_plan_applied_twice_is_refused() -> None:
    model = several()
    with pytest.raises(UsageError, match=r"carries '\w+' already; saccade.strip\(model\) takes it off"):
        saccade.apply_plan(model, saccade.plan_of(model))


def test_an_error_in_a_plan_leaves_the_host_as_it_was() -> None:
    host = cifar()
    text = str(host)
    plan = Plan((Edit("bn1", "after", "se"), Edit("fc", "after", "se")))
    with pytest.raises(UsageError, match="'fc' does not give a map"):
        saccade.apply_plan(host, plan, inplace=True)
    assert str(host) == text
    assert len(saccade.plan_of(host)) == 0


def test_force_adds_the_same_mechanism_once_more_and_the_second_follows_the_first() -> None:
    host = cifar()
    once = saccade.augment(host, "se", at="layer1.0.bn2", start="paper", example_input=images())
    with pytest.raises(UsageError, match=r"'layer1.0.bn2' carries 'se' already; .*force=True adds another"):
        saccade.augment(once, "se", at="layer1.0.bn2", example_input=images())
    twice = saccade.augment(once, "se", at="layer1.0.bn2", start="paper", force=True, example_input=images())
    site = twice.get_submodule("layer1.0.bn2")
    assert list(site.saccade) == ["se", "se_2"]
    x = torch.randn(2, 8, 5, 4)
    first, second = (edit.attention for edit in site.saccade.values())
    assert torch.equal(site(x), second(first(host.get_submodule("layer1.0.bn2")(x))))
    assert len(saccade.plan_of(twice)) == 2
    assert torch.equal(saccade.strip(twice)(images()), host(images()))


def test_augmenting_an_augmented_network_adds_and_takes_no_attention_for_a_site() -> None:
    once = saccade.augment(cifar(), "gam", at="norm", example_input=images())
    twice = saccade.augment(once, "se", at="norm", example_input=images())
    plain = [site.path for site in saccade.find_sites(cifar(), images()) if site.kind == "norm"]
    assert {edit.site for edit in saccade.plan_of(twice).edits} == set(plain)
    assert len(saccade.plan_of(twice)) == 2 * len(plain)


@pytest.mark.parametrize("start", ["identity", "paper"])
@pytest.mark.parametrize(
    ("attention", "at"), [("se", "norm"), ("aaconv", "conv"), ("iebn", "norm"), ("simam", "block")]
)
def test_the_parameters_that_a_plan_tells_sum_to_the_difference(attention: str, at: str, start: str) -> None:
    host = cifar()
    model = saccade.augment(host, attention, at=at, start=start, example_input=images())
    plan = saccade.plan_of(model)
    added = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in host.parameters())
    assert sum(plan.parameters) == added
    lines = str(plan).splitlines()
    assert len(lines) == len(plan) + 1
    assert all(f"{attention}(" in line and "parameters" in line for line in lines[:-1])
    assert lines[-1] == f"{len(plan)} edits, {added:+,} parameters"


def test_printing_a_network_shows_each_edit() -> None:
    model = several()
    text = str(model)
    for edit in saccade.plan_of(model).edits:
        assert f"{edit}, " in text
    plan = saccade.plan_of(model)
    replaced = next(number for number, edit in enumerate(plan.edits) if (edit.mode, edit.start) == ("replace", "paper"))
    assert f"{plan.edits[replaced]}, {plan.parameters[replaced]:+,} parameters" in text


def test_plans_go_into_sets() -> None:
    plan = saccade.plan_of(saccade.augment(cifar(), "se", at="bn1", options={"reduction": 4}, example_input=images()))
    other = Plan((Edit("bn1", "after", "se", {"reduction": 2}),))
    assert {plan, Plan.from_json(plan.to_json()), other} == {plan, other}


@pytest.mark.parametrize(
    ("attention", "mode", "modes"),
    [("aaconv", "after", "'replace'"), ("iebn", "before", "'replace'"), ("se", "replace", "'after' or 'before'")],
)
def test_a_mode_that_a_mechanism_does_not_have_is_refused(attention: str, mode: Any, modes: str) -> None:
    site = {"aaconv": "conv1", "iebn": "bn1", "se": "bn1"}[attention]
    for start in ("paper", "identity"):
        plan = Plan((Edit(site, mode, attention, {}, start),))
        message = rf"`mode` \(='{mode}'\) of '{attention}' at '{site}' must be {modes}; write that in the plan"
        with pytest.raises(UsageError, match=message):
            saccade.apply_plan(cifar(), plan, example_input=images())


def test_an_edit_before_a_module_has_the_width_of_what_that_takes() -> None:
    host, x = cifar(), images()
    model = saccade.apply_plan(host, Plan((Edit("layer2.0.conv1", "before", "se"),)), example_input=x)
    assert torch.equal(model(x), host(x))
    assert model.get_submodule("layer2.0.conv1.saccade.se.attention").fc1.weight.shape[1] == 8
    with pytest.raises(
        UsageError, match=r"'fc' does not take a map of shape \(B, C, H, W\); choose a module that does"
    ):
        saccade.apply_plan(host, Plan((Edit("fc", "before", "se"),)), example_input=x)


def test_what_a_replaced_module_starts_from_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="saccade"):
        saccade.augment(cifar(), "aaconv", at="layer3.*.conv?", start="paper", options={"heads": 2, "upsilon": 0.25})
        saccade.augment(cifar(), "iebn", at="bn1", start="paper")
        saccade.augment(cifar(), "bot", at="layer3.0.conv2", start="paper")
        saccade.augment(cifar(), "aaconv", at="conv1")
    assert [message for message in caplog.messages if "starts from" in message] == [
        "aaconv starts from 24 of the host's 32 filters at layer3.0.conv1, layer3.0.conv2",
        "iebn starts from the host's scale, shift and statistics at bn1",
        "bot starts from 0 of the host's 32 filters at layer3.0.conv2",
    ]


def test_what_is_added_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    host = cifar()
    with caplog.at_level("INFO", logger="saccade"):
        model = saccade.augment(host, "se", at="*.bn2", stages="deepest:1", example_input=images())
    assert "se at layer3.0.bn2" in caplog.text
    assert "se: stages='deepest:1' leaves out layer1.0.bn2, layer2.0.bn2" in caplog.text
    added = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in host.parameters())
    assert f"+{added} parameters, +" in caplog.text


def test_of_several_places_those_with_the_deepest_maps_of_all_are_taken() -> None:
    at = {"layer1.*.bn2": "se", "layer3.*.conv2": "aaconv", "layer?.*.bn1": "eca"}
    model = saccade.augment(cifar(), at=at, stages="deepest:1", example_input=images())
    assert [(edit.site, edit.attention) for edit in saccade.plan_of(model).edits] == [
        ("layer3.0.bn1", "eca"),
        ("layer3.0.conv2", "aaconv"),
    ]
