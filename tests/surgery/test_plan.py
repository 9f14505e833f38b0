"""A plan is data: written down and read back it is the same plan, and what is no plan is refused with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import saccade
from saccade.errors import UsageError
from saccade.surgery import Edit, Plan
from surgery.hosts import cifar, images

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
        ('{"schema": "saccade.plan/1"}', "not a plan of schema"),
        ('{"schema": "saccade.plan/1", "edits": {}}', "not a plan of schema"),
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
