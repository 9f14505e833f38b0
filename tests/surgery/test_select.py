"""Choosing among sites: by kind, path, glob, list, function or mapping; limits; and what is printed and logged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import saccade
from saccade.errors import UsageError
from saccade.surgery import KINDS, Site, Survey, match_paths, select
from surgery.hosts import Block, augmented, cifar, conv, images

BLOCKS = ["layer1.0", "layer2.0", "layer3.0"]
SECOND_NORMS = [f"{block}.bn2" for block in BLOCKS]
PLACES: dict[str, list[str]] = {
    "residual": SECOND_NORMS,
    "conv": ["conv1", *(f"{block}.conv{n}" for block in BLOCKS for n in (1, 2))],
    "pointwise": ["layer2.0.downsample.0", "layer3.0.downsample.0"],
    "norm": ["bn1", "layer1.0.bn1", "layer1.0.bn2"]
    + [f"{block}.{norm}" for block in BLOCKS[1:] for norm in ("bn1", "bn2", "downsample.1")],
    "block": BLOCKS,
    "stage": BLOCKS,
    "input": ["conv1"],
}


def paths(at: Any, host: nn.Module | None = None) -> list[str]:
    return [site.path for site in saccade.find_sites(host or cifar(), at=at)]


@pytest.mark.parametrize("kind", PLACES)
def test_a_kind_names_all_of_its_sites(kind: str) -> None:
    sites = saccade.find_sites(cifar(), at=kind)
    assert [site.path for site in sites] == PLACES[kind]
    assert {site.kind for site in sites} == {kind}
    assert [site.path for site in saccade.find_sites(cifar()) if site.kind == kind] == PLACES[kind]


def test_the_sites_of_a_host_come_kind_by_kind() -> None:
    kinds = [site.kind for site in saccade.find_sites(cifar())]
    assert kinds == sorted(kinds, key=KINDS.index)
    assert saccade.find_sites(cifar()).counts() == {kind: len(found) for kind, found in PLACES.items()}


@pytest.mark.parametrize(
    ("at", "sites"),
    [
        ("layer1.0.bn2", ["layer1.0.bn2"]),
        ("*.bn2", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]),
        (["layer3.0.bn2", "layer1.0.bn2"], ["layer3.0.bn2", "layer1.0.bn2"]),
        (["*.bn2", "layer1.0.bn2"], ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]),
        (["bn1", "layer[23].0.bn1"], ["bn1", "layer2.0.bn1", "layer3.0.bn1"]),
        (("layer2.?.conv*",), ["layer2.0.conv1", "layer2.0.conv2"]),
    ],
    ids=str,
)
def test_paths_and_globs_name_modules_in_their_order(at: str | list[str], sites: list[str]) -> None:
    assert [site.path for site in saccade.find_sites(cifar(), at=at)] == sites
    if isinstance(at, str):
        assert match_paths(cifar(), at) == sites
    plan = saccade.plan_of(saccade.augment(cifar(), "se", at=at, example_input=images()))
    assert {edit.site for edit in plan.edits} == set(sites)


def test_globs_do_not_reach_into_attention_that_is_there() -> None:
    model = augmented(cifar(), "gam")
    assert not [path for path in match_paths(model, "*") if "saccade" in path]
    twice = saccade.augment(model, "se", at="*.bn*", example_input=images())
    assert len(saccade.plan_of(twice)) == 3 + 6


def test_a_pattern_that_matches_nothing_names_the_nearest_and_what_there_is() -> None:
    message = (
        r"`at` \(='layer1.0.bn3'\) matches no module of CifarResNet \(did you mean .*'layer1.0.bn2'.*\?\)\. "
        r"It has \d+ modules, the last ones .*'fc'; name a kind of site \(residual, conv, .*, input\), a path or a "
        r"glob such as '\*\.bn2'"
    )
    with pytest.raises(UsageError, match=message):
        saccade.augment(cifar(), "se", at="layer1.0.bn3")
    with pytest.raises(UsageError, match=r"`at` \(='zzzzzz'\) matches no module of CifarResNet\. It has"):
        saccade.augment(cifar(), "se", at=["*.bn2", "zzzzzz"])
    with pytest.raises(UsageError, match=r"`at` \(=\[\]\) must name at least one place"):
        saccade.augment(cifar(), "se", at=[])
    message = (
        r"`at` \(=.*\) must be a kind of site \(residual, .*, input\), a module's path, a glob such as '\*.bn2', "
        r"a list of those, or a function of a Site"
    )
    for at in (None, 3, [3]):
        with pytest.raises(UsageError, match=message):
            saccade.augment(cifar(), "se", at=at)


def test_a_container_and_its_last_member_are_one_site() -> None:
    model = saccade.augment(cifar(), "se", at=["layer2", "layer2.0"], example_input=images())
    assert [edit.site for edit in saccade.plan_of(model).edits] == ["layer2.0"]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (lambda site: site.kind == "conv" and site.channels == 16, ["layer2.0.conv1", "layer2.0.conv2"]),
        (lambda site: site.positions <= 64 and site.kind == "residual", ["layer3.0.bn2"]),
        (lambda site: site.kind == "input", ["conv1"]),
        (["residual", "conv1"], [*SECOND_NORMS, "conv1"]),
        (["*.bn2", "residual"], SECOND_NORMS),
        (["stage", lambda site: site.path == "bn1"], [*BLOCKS, "bn1"]),
    ],
    ids=["width-of-a-kind", "small", "input", "kind-and-path", "same-twice", "kind-and-function"],
)
def test_functions_of_a_site_and_kinds_may_stand_in_a_list(at: Any, expected: list[str]) -> None:
    assert paths(at) == expected


def test_a_path_of_several_kinds_is_chosen_once() -> None:
    chosen = paths(lambda _: True)
    # But for the first module, which has a place before it and one after.
    assert sorted(chosen) == sorted([*{site.path for site in saccade.find_sites(cifar())}, "conv1"])
    # layer1.0.bn2 is a norm and the end of a branch.
    assert len(saccade.plan_of(saccade.augment(cifar(), "se", at=["residual", "norm"])).edits) == len(PLACES["norm"])


class Named(nn.Module):
    """Modules that have the names of kinds of site."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Sequential(conv(3), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


def test_a_kind_wins_over_a_module_of_that_name() -> None:
    assert paths("norm", Named()) == ["norm", "conv.1"]
    assert paths("conv", Named()) == ["conv.0"]
    assert paths("[n]orm", Named()) == ["norm"]


def test_a_mapping_puts_each_mechanism_at_its_place() -> None:
    at = {"residual": "se(reduction=2)", "layer3.*.conv?": "aaconv(heads=4)", "input": "coord"}
    model = saccade.augment(cifar(), at=at, example_input=images())
    edits = {(edit.site, edit.mode, edit.attention) for edit in saccade.plan_of(model).edits}
    assert edits == {
        *((path, "after", "se") for path in SECOND_NORMS),
        ("layer3.0.conv1", "replace", "aaconv"),
        ("layer3.0.conv2", "replace", "aaconv"),
        ("conv1", "before", "coord"),
    }
    options = {edit.attention: edit.options for edit in saccade.plan_of(model).edits}
    assert options["se"] == {"reduction": 2}
    assert options["aaconv"]["heads"] == 4


def test_a_module_may_carry_attention_before_and_after_it() -> None:
    host, x = cifar(), images()
    model = saccade.augment(host, at={"input": "se", "conv1": "cbam"}, example_input=x)
    assert [(edit.mode, edit.attention) for edit in saccade.plan_of(model).edits] == [
        ("before", "se"),
        ("after", "cbam"),
    ]
    assert torch.equal(model(x), host(x))
    again = saccade.apply_plan(host, saccade.plan_of(model), example_input=x)
    assert torch.equal(again(x), host(x))


def test_before_and_after_a_module_are_two_places() -> None:
    host, x = cifar(), images()
    model = saccade.augment(host, "cbam", at=["input", "conv"], example_input=x)
    edits = saccade.plan_of(model).edits
    assert [edit.mode for edit in edits if edit.site == "conv1"] == ["before", "after"]
    assert len(edits) == 1 + len(PLACES["conv"])
    assert torch.equal(model(x), host(x))
    everywhere = saccade.plan_of(saccade.augment(host, "se", at=lambda _: True, example_input=x))
    assert [edit.mode for edit in everywhere.edits if edit.site == "conv1"] == ["after", "before"]
    first = saccade.augment(host, "cbam", at="input", example_input=x)
    assert len(saccade.plan_of(saccade.augment(first, "cbam", at="conv1", example_input=x))) == 2
    after = saccade.plan_of(saccade.augment(host, "cbam", at="conv1", example_input=x))
    assert len(saccade.plan_of(saccade.apply_plan(first, after, example_input=x))) == 2
    with pytest.raises(UsageError, match="'conv1' carries 'cbam' already"):
        saccade.augment(first, "cbam", at="input", example_input=x)


def test_places_of_a_mapping_that_overlap_get_one_edit() -> None:
    model = saccade.augment(cifar(), at={"residual": "se", "norm": "se", "input": "se"}, example_input=images())
    assert len(saccade.plan_of(model)) == len(PLACES["norm"]) + 1
    message = (
        r"`at` .* names 'layer1.0.bn2' twice for 'se', with options {'reduction': 2} and {'reduction': 4}; leave out "
        "one of them"
    )
    with pytest.raises(UsageError, match=message):
        saccade.augment(cifar(), at={"residual": "se(reduction=2)", "norm": "se(reduction=4)"})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda host: saccade.augment(host, "se", at={"residual": "se"}), "`at` as a mapping names mechanisms with"),
        (lambda host: saccade.augment(host, at={"residual": "se"}, options={}), "leave out `attention` and `options`"),
        (lambda host: saccade.augment(host, at={}), r"`at` \(={}\) must name at least one place"),
        (lambda host: saccade.augment(host), r"`attention` must be a mechanism; saccade.list_attention\(\) names"),
        (lambda host: saccade.augment(host, at={"residual": "sse"}), r"'sse'.*did you mean .*'se'"),
        (lambda host: saccade.augment(host, at={"residual": "se(reduce=2)"}), r"reduce.*did you mean .*reduction"),
    ],
    ids=["both", "options-too", "empty", "none", "unknown-mechanism", "unknown-option"],
)
def test_a_mapping_and_a_mechanism_are_either_or(call: Callable[[nn.Module], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(cifar())


@pytest.mark.parametrize(
    ("limits", "kept", "skipped"),
    [
        ({"stages": "deepest:1"}, 2, ["stages='deepest:1'", "stages='deepest:1'"]),
        ({"stages": "deepest:2"}, 1, ["stages='deepest:2'"]),
        ({"stages": "deepest:9"}, 0, []),
        ({"max_positions": 256}, 1, ["max_positions=256"]),
        ({"max_positions": 255}, 2, ["max_positions=255", "max_positions=255"]),
        ({"stages": "deepest:2", "max_positions": 64}, 2, ["stages='deepest:2'", "max_positions=64"]),
    ],
    ids=str,
)
def test_limits_keep_the_deepest_sites_and_name_what_they_leave_out(
    limits: dict[str, Any], kept: int, skipped: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    chosen = select(Survey(cifar()), "residual", **limits)
    assert [site.path for site in chosen.sites] == SECOND_NORMS[kept:]
    assert [(site.path, reason) for site, reason in chosen.skipped] == list(
        zip(SECOND_NORMS[:kept], skipped, strict=True)
    )
    with caplog.at_level(logging.INFO, "saccade"):
        model = saccade.augment(cifar(), "se", **limits)
    assert [edit.site for edit in saccade.plan_of(model).edits] == SECOND_NORMS[kept:]
    told = [message for message in caplog.messages if "leaves out" in message]
    assert told == [
        f"se: {reason} leaves out "
        + ", ".join(path for path, why in zip(SECOND_NORMS, skipped, strict=False) if why == reason)
        for reason in dict.fromkeys(skipped)
    ]


def test_what_was_done_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    host = cifar()
    with caplog.at_level(logging.INFO, "saccade"):
        model = saccade.augment(host, "se", start="paper")
    before = sum(p.numel() for p in host.parameters())
    added = sum(p.numel() for p in model.parameters()) - before
    assert caplog.messages == [
        f"se at {', '.join(SECOND_NORMS)}",
        f"+{added} parameters, +{100 * added / before:.2f} %",
    ]
    assert {record.levelno for record in caplog.records} == {logging.INFO}


@pytest.mark.parametrize("stages", ["deepest", "deepest:0", "deepest:-1", "deepest:two", "Deepest:2", 3, ""], ids=repr)
def test_stages_of_another_form_are_an_error(stages: Any) -> None:
    message = r"`stages` \(=.*\) must be 'deepest:N', N the number of resolutions, such as 'deepest:3'"
    with pytest.raises(UsageError, match=message):
        saccade.augment(cifar(), "se", stages=stages)


def test_a_limit_that_leaves_nothing_says_which_would() -> None:
    message = (
        r"`max_positions` \(=63\) leaves no site: the smallest map, 8 x 8 at 'layer3.0.bn2', has 64 positions; give "
        r"max_positions=64 or more"
    )
    with pytest.raises(UsageError, match=message):
        saccade.augment(cifar(), "se", max_positions=63)
    assert len(saccade.plan_of(saccade.augment(cifar(), "se", max_positions=64))) == 1
    for wrong in (0, 2.5, "many"):
        with pytest.raises(UsageError, match=r"`max_positions` \(=.*\) must be"):
            saccade.augment(cifar(), "se", max_positions=wrong)


@pytest.mark.parametrize("at", ["depthwise", lambda site: site.channels > 1000], ids=["kind", "function"])
def test_no_match_lists_what_there_is_and_a_call_that_works(at: Any) -> None:
    message = (
        r"`at` \(=.*\) matches no site of CifarResNet\. It has 3 residual, 7 conv, 2 pointwise, 9 norm, 3 block, "
        r"3 stage, 1 input: for instance at='residual'; saccade.find_sites\(model\) lists them"
    )
    with pytest.raises(UsageError, match=message):
        saccade.augment(cifar(), "se", at=at)
    with pytest.raises(UsageError, match=message):
        saccade.find_sites(cifar(), at=at)


def test_what_is_proposed_fits_the_mechanism() -> None:
    for attention, proposed in (("se", "residual"), ("aaconv", "conv"), ("iebn", "norm")):
        with pytest.raises(UsageError, match=f"for instance at='{proposed}'"):
            saccade.augment(cifar(), attention, at=lambda site: site.channels > 1000)
        assert len(saccade.plan_of(saccade.augment(cifar(), attention, at=proposed))) > 0


@pytest.mark.parametrize(
    ("attention", "at", "takes", "works", "count"),
    [
        ("aaconv", "residual", "a convolution's place", "conv", 7),
        ("aaconv", "norm", "a convolution's place", "conv", 7),
        ("aaconv", "input", "a convolution's place", "conv", 7),
        ("iebn", "conv", "a BatchNorm's place", "norm", 9),
    ],
)
def test_a_mechanism_at_a_kind_that_it_does_not_fit_names_the_call_that_works(
    attention: str, at: str, takes: str, works: str, count: int
) -> None:
    message = (
        rf"'{attention}' takes {takes}, and at='{at}' names no such places; "
        rf"saccade.augment\(model, '{attention}', at='{works}'\) finds {count}"
    )
    with pytest.raises(UsageError, match=message):
        saccade.augment(cifar(), attention, at=at)
    assert len(saccade.plan_of(saccade.augment(cifar(), attention, at=works))) == count


def test_a_host_without_a_fitting_place_says_so() -> None:
    with pytest.raises(UsageError, match=r"'iebn' takes a BatchNorm's place, and at='conv' .*; the host has none"):
        saccade.augment(nn.Sequential(conv(3)), "iebn", at="conv")


class Tokens(nn.Module):
    """What a vision transformer does with an image: one convolution that cuts it into patches."""

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.patch, self.mix = nn.Conv2d(3, 8, 4, stride), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return (x + self.mix(x)).mean(1)


class Rows(nn.Module):
    def __init__(self, layer: nn.Module, *shape: int) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(len(x), *self.shape)).flatten(1)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (Tokens(), r"Tokens has no convolutional site: its one convolution \('patch'\) cuts the image into patches"),
        (Rows(nn.Conv1d(3, 4, 3), 3, -1), r"Rows has no site: attention goes to maps of 2-D .* are Conv1d\."),
        (Rows(nn.Conv3d(1, 4, 3), 1, 3, 40, 32), r"Rows has no site: .* its convolutions are Conv3d\."),
        (Rows(nn.Linear(3840, 4), -1), r"Rows has no site: .*, and it has none\."),
    ],
    ids=["patches", "1-d", "3-d", "none"],
)
def test_a_host_without_maps_says_why(host: nn.Module, message: str) -> None:
    sites = saccade.find_sites(host, images())
    assert len(sites) == 0
    assert sites.notes[-1] in str(sites)
    with pytest.raises(UsageError, match=message):
        saccade.augment(host, "se", example_input=images())
    with pytest.raises(UsageError, match=message):
        saccade.find_sites(host, images(), at="conv")


def test_overlapping_patches_are_maps() -> None:
    assert saccade.find_sites(Tokens(stride=2), images()).counts() == {"conv": 1, "stage": 1, "input": 1}


def test_sites_print_as_a_table() -> None:
    model = nn.Sequential(conv(3), Block(), nn.Conv2d(8, 16, 1, 2))
    assert str(saccade.find_sites(model, torch.zeros(2, 3, 40, 32), at=["residual", "*c2", "2"])) == (
        "path   kind       channels  map      stride\n"
        "1.bn2  residual   8         40 x 32  1\n"
        "1.c2   conv       8         40 x 32  1\n"
        "2      pointwise  16        20 x 16  2\n"
        "\n"
        "Maps for an input of 3 x 40 x 32 (the example_input given)."
    )
    sites = saccade.find_sites(model, torch.zeros(2, 3, 40, 32))
    assert repr(sites) == str(sites)
    assert str(sites).count("\n") == 1 + len(sites) + 1


def test_the_table_remarks_on_layout_and_calls() -> None:
    with torch.device("meta"):
        host = timm.create_model("mambaout_femto")
    lines = str(saccade.find_sites(host, torch.zeros(1, 3, 96, 64), at="residual")).splitlines()
    assert len(lines) > 10
    assert all(line.endswith("  nhwc") for line in lines[1:-2])
    layer = conv(8)
    twice = str(saccade.find_sites(nn.Sequential(conv(3), layer, nn.ReLU(), layer), images(), at="1")).splitlines()
    assert twice[1].endswith("  called 2 times")


def test_notes_say_where_the_input_size_comes_from() -> None:
    host, plain = cifar(), nn.Sequential(conv(3))
    assert saccade.find_sites(host).notes == ("Maps for an input of 3 x 32 x 32 (the host's pretrained_cfg).",)
    given = saccade.find_sites(host, torch.zeros(5, 3, 40, 32), at="residual")
    assert given.notes == ("Maps for an input of 3 x 40 x 32 (the example_input given).",)
    note = "Maps for an input of 3 x 224 x 224 (the default; give `example_input` for another)."
    assert saccade.find_sites(plain).notes == (note,)
    assert saccade.find_sites(plain)[0].size == (224, 224)


def test_sites_are_a_sequence_that_compares() -> None:
    sites = saccade.find_sites(cifar())
    assert sites == saccade.find_sites(cifar())
    assert hash(sites) == hash(saccade.find_sites(cifar()))
    assert sites != saccade.find_sites(cifar(), images())
    assert sites[:3] == saccade.find_sites(cifar(), at="residual")
    assert sites[:3].notes == sites.notes
    assert list(sites)[-1] is sites[-1]
    assert sites[0] == Site("layer1.0.bn2", "residual", 8, 32, 32, 1, in_size=(32, 32))
