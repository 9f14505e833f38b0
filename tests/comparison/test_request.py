"""What users ask for is checked before anything is trained."""

import json
import shlex
from typing import Any

import pytest
from torch import nn
from typer.main import get_command

import saccade
from saccade._specs import Spec, parse_spec, parse_specs
from saccade.cli.commands import app
from saccade.cli.compare import read_config, read_seeds
from saccade.comparison.request import Request, make_request
from saccade.errors import UsageError
from saccade.surgery import Plan


def ask(**changes: Any) -> Request:
    asked: dict[str, Any] = {
        "model": "saccade:cifar_resnet(depth=8)",
        "data": "sample",
        "attention": "none,se",
        "at": None,
        "start": "paper",
        "seeds": 3,
        "margin": 0.5,
        "image_size": 32,
        "epochs": 2,
        "batch_size": 64,
        "lr": 0.1,
        "weight_decay": 5e-4,
    }
    return make_request(**(asked | changes))


def test_variants_carry_names_and_options():
    request = ask(attention="none,gam(reduction=8, channel_gate='sigmoid'),gam")
    assert [variant.name for variant in request.variants] == [
        "none",
        "gam(reduction=8, channel_gate='sigmoid')",
        "gam",
    ]
    assert request.variants[1].options == {"reduction": 8, "channel_gate": "sigmoid"}
    assert request.variants[0].attention is None


def test_a_list_of_variants_is_the_same_as_text():
    assert ask(attention=["none", "se", "gam(reduction=8)"]) == ask(attention="none,se,gam(reduction=8)")


def test_the_baseline_is_added_where_it_is_missing():
    assert ask(attention="se,sem") == ask(attention="none,se,sem")


@pytest.mark.parametrize(("seeds", "listed"), [(3, [0, 1, 2]), ([4, 2], [4, 2]), ((7,), [7])])
def test_seeds_are_a_count_or_a_list(seeds, listed):
    assert ask(seeds=seeds).seeds == listed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "none"}, "must name an attention beside the baseline"),
        ({"attention": "se,se"}, "two variants or controls have the name 'se'"),
        (
            {"attention": [{"attention": "gam", "name": "longer"}], "control": "longer"},
            "two variants or controls have the name 'longer'",
        ),
        ({"attention": 5}, r"`attention` \(=5\) must be text or a list"),
        ({"attention": [{"attention": 5}]}, r"`attention` \(=5\)"),
        ({"attention": [{"attention": "se", "options": None}]}, r"`options` \(=None\) must be a mapping"),
        ({"attention": [{"attention": "se", "options": "reduction=8"}]}, r"`options` .* must be a mapping"),
        ({"attention": [{"attention": "se", 3: 4}]}, "there is no 3"),
        ({"attention": [{"attention": "none", "name": "b"}]}, "'none' has no place, options or other name"),
        ({"at": 5}, r"`at` \(=5\) must be text or a list"),
        ({"control": None}, r"`control` \(=None\) must be text or a list"),
        ({"control": 5}, r"`control` \(=5\) must be text or a list"),
        ({"seeds": True}, r"`seeds` \(=True\) must be a count"),
        ({"seeds": 10**9}, "at most 1000"),
        ({"attention": "none(x=1),se"}, "the baseline 'none' has no options"),
        ({"attention": "se,gam(8)"}, "must be names, or names with options"),
        ({"attention": "se,gam(reduction=open('x'))"}, "must be names, or names with options"),
        ({"attention": "se;gam"}, "must be names, or names with options"),
        ({"attention": ""}, "must name an attention beside the baseline"),
        ({"seeds": 0}, "`seeds` .=0. must be a count of at least 1"),
        ({"seeds": [1, 1]}, "different integers from 0"),
        ({"seeds": [-1]}, "different integers from 0"),
        ({"seeds": [0, 1.5]}, "different integers from 0"),
        ({"seeds": "3"}, "`seeds` .='3'. must be a count of at least 1"),
        ({"seeds": 2.5}, "`seeds` .=2.5. must be a count of at least 1"),
        ({"attention": "se,gam(reduction=8, reduction=4)"}, "must be names, or names with options"),
        ({"at": [3]}, "`at.0` .=3.: Input should be a valid string"),
        ({"lr": float("inf")}, "`lr` .=inf.: Input should be a finite number"),
        ({"margin": 0}, "`margin` .=0. must be a number"),
        ({"margin": float("nan")}, "`margin` .=nan. must be a number"),
        ({"start": "zero"}, "`start` .='zero'. must be one of 'paper', 'identity'"),
        ({"epochs": 0}, "`epochs` .=0.: Input should be greater than or equal to 1"),
        ({"lr": -1.0}, "`lr` .=-1.0.: Input should be greater than 0"),
        ({"lr": 0.0}, "`lr` .=0.0.: Input should be greater than 0"),
        ({"control": "shorter"}, "`control` .='shorter'. must be one of 'longer', 'wider'"),
        ({"control": "longer,longer"}, "names the same control twice"),
        ({"control": "wider", "pretrained": True}, "a wider host has no pretrained weights"),
        ({"tune": -1}, "`tune` .=-1. must be an integer of at least 0"),
        ({"attention": [{"attention": "se", "place": "x"}]}, "there is no 'place'"),
        ({"attention": [{"options": {}}]}, "each must be text such as 'se', or have attention= or plan="),
        ({"attention": "plan"}, r"a plan's file is given as plan\(file='plan.json'\)"),
        ({"image_size": 2}, "`image_size` .=2.: Input should be greater than or equal to 8"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        ask(**changes)


PLAN_FILE = {
    "schema": "saccade.plan/1",
    "edits": [
        {"site": "layer1.0.bn2", "mode": "after", "attention": "se", "options": {"reduction": 4}, "start": "paper"}
    ],
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seeds": [7]},
        {"at": "layer3.*.bn2", "attention": "none,gam(channel_gate='sigmoid')", "margin": 0.25},
        {"at": ["layer1.0.bn2", "layer2.0.bn2"], "start": "identity", "data": "imagefolder:a b/c"},
        {"pretrained": True, "model": "timm:resnet18", "control": "longer", "tune": 3},
        {"control": ["longer", "wider"]},
        {"attention": ["none", {"attention": "se", "at": "layer3.*", "start": "identity", "name": "late se"}, "se"]},
        {"attention": ["se", {"plan": PLAN_FILE, "name": "mine"}]},
    ],
    ids=str,
)
def test_the_printed_command_asks_for_the_same(changes, tmp_path):
    request = ask(**changes)
    (tmp_path / "request.json").write_text(json.dumps(request.words))
    words = shlex.split(request.command(tmp_path))
    assert words[:2] == ["saccade", "compare"]
    context = get_command(app).commands["compare"].make_context("compare", words[2:])  # pyright: ignore[reportAttributeAccessIssue]
    asked = {**context.params, "seeds": read_seeds(context.params["seeds"])}
    assert asked.pop("out") == tmp_path
    if (config := asked.pop("config")) is not None:
        asked |= read_config(config)
    asked.pop("jobs")
    assert make_request(**asked) == request


@pytest.mark.parametrize(("pretrained", "expected"), [(False, ("paper", 32, 0.1)), (True, ("identity", 224, 0.01))])
def test_a_pretrained_host_has_other_defaults(pretrained, expected):
    request = ask(pretrained=pretrained, start=None, image_size=None, lr=None)
    assert (request.variants[1].start, request.image_size, request.settings.optim.lr) == expected


def test_a_plan_in_a_file_is_a_variant(tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(PLAN_FILE))
    request = ask(attention=f"none,plan(file={str(file)!r})")
    file.unlink()
    assert [edit.site for edit in Plan.from_json(request.variants[1].plan or "").edits] == ["layer1.0.bn2"]
    with pytest.raises(UsageError, match=r"`plan` \(=.*\) cannot be read"):
        ask(attention=f"none,plan(file={str(file)!r})")


def test_variants_may_have_places_of_their_own_and_one_mechanism_come_twice():
    request = ask(
        attention=["gam", {"attention": "gam", "options": {"reduction": 8}, "at": "layer3.*", "name": "deep"}]
    )
    assert [(variant.name, variant.options, variant.at) for variant in request.variants] == [
        ("none", {}, None), ("gam", {}, None), ("deep", {"reduction": 8}, ["layer3.*"]),
    ]  # fmt: skip


def test_spaces_between_places_are_not_part_of_them():
    assert ask(at="layer1.0.bn2, layer2.0.bn2") == ask(at=["layer1.0.bn2", "layer2.0.bn2"])


def test_a_request_survives_its_file():
    request = ask(attention="none,gam(reduction=8)", at="*.bn2")
    assert Request.model_validate_json(request.model_dump_json()) == request


def test_specs_print_as_they_parse():
    text = "gam(reduction=8, channel_gate='sigmoid')"
    assert str(parse_spec(text, "attention")) == text
    assert [str(spec) for spec in parse_specs("se, sem,gam( reduction = 8 )", "attention")] == [
        "se",
        "sem",
        "gam(reduction=8)",
    ]


def test_a_word_of_python_can_be_a_name():
    specs = parse_specs("none, lambda,lambda(heads=4)", "attention")
    assert [(spec.name, spec.options) for spec in specs] == [("none", {}), ("lambda", {}), ("lambda", {"heads": 4})]


def test_every_mechanism_can_be_named():
    for name in saccade.list_attention():
        assert parse_specs(f"none,{name},{name}(a=1)", "attention") == [Spec("none"), Spec(name), Spec(name, {"a": 1})]


def test_a_network_is_no_name():
    with pytest.raises(UsageError, match=r"`model` \(a ReLU\) must be a name such as 'saccade:cifar_resnet"):
        ask(model=nn.ReLU())


def test_one_name_is_one_name():
    with pytest.raises(UsageError, match=r"`model` .='a,b'. must be one name"):
        parse_spec("a,b", "model")
