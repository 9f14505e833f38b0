"""The papers' networks have as many parameters as the papers print, or by how much they do not is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import saccade
from nets.sizes import augmented, count, digits, millions, sized
from saccade.attention.aaconv import SelfAttention2d
from saccade.nets import CifarResNet, Host, ResidualAttentionNet, WideResNet
from saccade.nets.networks import NETWORKS

PAGE = (Path(__file__).parents[2] / "docs/networks.md").read_text()
# In millions, to the digits that the papers, their authors' code, or calculations by hand from the papers' text give.
COUNTS = {
    "aa_resnet34": 20.745, "aa_resnet50": 25.809, "aa_resnet101": 45.387, "aa_resnet152": 61.614,
    "aa_resnet50_025": 24.304, "aa_resnet50_050": 22.343, "aa_resnet50_075": 20.735, "aa_resnet50_100": 19.384,
    "aa_mnasnet_100": 4.06, "aa_mnasnet_125": 5.53, "aa_mnasnet_140": 6.44,
    "wrn28_10": 36.278, "ge_wrn28_10": 36.3, "se_wrn28_10": 36.547,
    "se_resnet50": 28.072, "ge_resnet50": 25.6,
    "bam_resnet50": 25.92, "bam_resnet101": 44.91, "cbam_resnet50": 28.09, "cbam_resnet101": 49.33,
    "gala_resnet50": 29.4, "triplet_resnet18": 11.69, "triplet_resnet50": 25.56, "sge_resnet50": 25.56,
    "shuffle_resnet50": 25.56, "shuffle_resnet101": 44.55, "simam_resnet50": 25.56, "coord_mobilenetv2_100": 3.95,
    "sem_resnet83": 1.0141, "sem_resnet164": 1.9701,
}  # fmt: skip
# In units of 2**20, as ECA's authors count.
ECA = {"eca_resnet18": 11.15, "eca_resnet34": 20.79, "eca_resnet50": 24.37, "eca_resnet101": 42.49}
ENDS = ("layer1", "layer2", "layer3", "layer4")
DEPTHWISE = "blocks.[123456].*.bn2"


def halved_first(conv: str, options: str) -> dict[str, str]:
    """Attention in the last three stages of a ResNet, in the first of them on a map of half the side."""
    return {f"layer2.*.{conv}": f"aaconv({options}, downsample=2)", f"layer[34].*.{conv}": f"aaconv({options})"}


@pytest.mark.parametrize("name", COUNTS)
def test_every_count_is_the_papers_to_its_last_digit(name: str) -> None:
    assert millions(sized(name), digits(COUNTS[name])) == COUNTS[name]


@pytest.mark.parametrize("name", ECA)
def test_ecas_authors_count_in_units_of_two_to_the_twentieth(name: str) -> None:
    assert round(count(sized(name)) / 2**20, 2) == ECA[name]


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("aa_wrn28_10", 36.054, 36.2),
        ("aa_mnasnet_075", 3.015, 3.02),
        ("bot_resnet50", 20.852, 20.8),
        ("gam_resnet18", 16.046, 16.04),
        ("ge_theta_resnet50", 31.107, 31.2),
        ("ge_theta_plus_resnet50", 33.638, 33.7),
        ("eca_resnet152", 60.193, round(57.41 * 2**20 / 1e6, 3)),
        ("residual_attention_92", 1.811, 1.9),
        ("residual_attention_236", 4.947, 5.1),
    ],
)
def test_what_is_not_as_printed_is_told(name: str, ours: float, theirs: float) -> None:
    assert millions(sized(name)) == ours
    assert round(NETWORKS[name].params or 0, 3) == theirs
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize(
    ("place", "ours", "printed", "told"),
    [
        ("ge(gather='depthwise', excite='mlp')", 58.323, 58.4, "GE-theta-plus-ResNet-101 58.323"),
        ("se", 49.292, 49.4, "SENet-101 49.292"),
        ("se(bias=True)", 49.327, 49.4, "49.327"),
    ],
)
def test_two_of_depth_101_are_not_as_others_cite_them(place: str, ours: float, printed: float, told: str) -> None:
    model = augmented("resnet101", {"residual": place})
    assert millions(model) == ours
    assert millions(model, 1) != printed
    assert told in PAGE


@pytest.mark.parametrize(
    ("host", "at", "params"),
    [
        ("resnet34", {}, 21.798),
        ("resnet50", {}, 25.557),
        ("resnet101", {}, 44.549),
        ("resnet152", {}, 60.193),
        ("saccade:mnasnet_a1(width=0.75)", {}, 2.91),
        ("saccade:mnasnet_a1", {}, 3.89),
        ("saccade:mnasnet_a1(width=1.25)", {}, 5.26),
        # from memory 6.10, and 6.1 in the README of its authors
        ("saccade:mnasnet_a1(width=1.4)", {}, 6.1),
        ("resnet34", {"residual": "se"}, 22.0),
        ("resnet152", {"residual": "se"}, 66.8),
        # the other readings of AAConv's ResNets: the second convolution, both, no least depth of keys
        ("resnet34", halved_first("conv2", "kappa=0.25, upsilon=0.25"), 20.544),
        ("resnet34", halved_first("conv?", "kappa=0.25, upsilon=0.25"), 19.49),
        ("resnet50", halved_first("conv2", "min_key_dim=1"), 25.121),
        ("resnet50", halved_first("conv2", "kappa=0.25, upsilon=0.25, min_key_dim=1"), 23.772),
        ("resnet50", halved_first("conv2", "kappa=0.5, upsilon=0.5, min_key_dim=1"), 22.142),
        ("resnet50", halved_first("conv2", "kappa=0.75, upsilon=0.75, min_key_dim=1"), 20.668),
        ("resnet50", halved_first("conv2", "kappa=1.0, upsilon=1.0, min_key_dim=1"), 19.350),
        ("resnet18", dict.fromkeys(ENDS, "gam(reduction=4)"), 20.40),
        ("resnet18", dict.fromkeys(ENDS, "gam(reduction=16)"), 13.87),
        ("mobilenetv2_100", {DEPTHWISE: "triplet"}, 3.51),
        ("mobilenetv2_100", {DEPTHWISE: "triplet(kernel_size=3)"}, 3.506),
        ("mobilenetv2_100", {DEPTHWISE: "se(reduction=24, bias=True)"}, 3.89),
        ("mobilenetv2_100", {DEPTHWISE: "cbam(reduction=24)"}, 3.89),
    ],
)
def test_other_networks_of_the_papers_and_other_readings(host: str, at: dict[str, str], params: float) -> None:
    model = augmented(host, at) if at else build(host)
    assert millions(model, digits(params)) == params


def build(host: str) -> nn.Module:
    with torch.device("meta"):
        return Host.parse(host).build()


def test_eca_in_mobilenetv2_counts_in_units_of_two_to_the_twentieth() -> None:
    assert round(count(augmented("mobilenetv2_100", {DEPTHWISE: "eca"})) / 2**20, 2) == 3.34


@pytest.mark.parametrize(
    ("width", "without", "with_tables", "printed", "equal"),
    [
        (0.75, 0.097, 0.103, 0.11, 0.117),
        (1.0, 0.167, 0.174, 0.17, 0.202),
        (1.25, 0.265, 0.274, 0.27, 0.321),
        (1.4, 0.325, 0.335, 0.34, 0.393),
    ],
)
def test_attention_adds_to_mnasnet_what_is_derived(width, without, with_tables, printed, equal) -> None:
    """By hand without relative tables; from memory the paper prints what, but for the narrowest, is ours with them.
    With kappa = upsilon it would be ``equal``, much more."""
    name = f"aa_mnasnet_{round(100 * width):03}"
    host = count(build(f"saccade:mnasnet_a1(width={width})"))
    bare, full, other = (
        (count(sized(name, **options)) - host) / 1e6
        for options in ({"relative": False}, {}, {"relative": False, "upsilon": 0.1})
    )
    assert (round(bare, 3), round(full, 3), round(other, 3)) == (without, with_tables, equal)
    assert (round(full, 2) == printed) == (width != 0.75)
    assert abs(full - printed) < abs(other - printed) or width == 0.75


@pytest.mark.parametrize(
    ("depth", "classes", "base", "se", "eca", "ie", "sem"),
    [
        (83, 10, 0.8695, 0.9706, 0.8696, 0.8776, 0.9909),
        (83, 100, 0.8927, 0.9937, 0.8928, 0.9007, 1.0141),
        (164, 10, 1.7042, 1.9063, 1.7044, 1.7203, 1.9470),
        (164, 100, 1.7273, 1.9294, 1.7275, 1.7434, 1.9701),
    ],
)
def test_attention_on_cifars_resnets_counts_as_by_hand(depth, classes, base, se, eca, ie, sem) -> None:
    """``ie`` alone is IEBN in the place of every branch's last BatchNorm: two more numbers for each channel."""
    with torch.device("meta"):
        host = CifarResNet(depth, block="bottleneck", num_classes=classes)
        at = {"se(bias=True)": "residual", "eca": "residual", "iebn": "layer?.*.bn3", "sem": "residual"}
        image = torch.zeros(1, 3, 32, 32)
        added = [saccade.augment(host, at={place: m}, start="paper", example_input=image) for m, place in at.items()]
    assert [millions(model, 4) for model in (host, *added)] == [base, se, eca, ie, sem]


def test_squeeze_and_excitation_counts_with_and_without_biases() -> None:
    assert [millions(sized("se_resnet50", bias=bias)) for bias in (True, False)] == [28.088, 28.072]


def test_gala_has_the_papers_count_with_a_reduction_of_16() -> None:
    """4, from memory the paper's, is far from its 29.4 M."""
    assert [millions(sized("gala_resnet50", reduction=r), 1) for r in (16, 4)] == [29.4, 40.7]


def test_the_shortcuts_of_a_wide_resnet_decide_its_count() -> None:
    """The 36.3 and 36.2 M of the paper's table need one kind each: projections, and attention in two stages."""
    projection = "saccade:wide_resnet(shortcut='projection')"
    with torch.device("meta"):
        assert [millions(WideResNet()), millions(build(projection))] == [36.278, 36.537]
    places = ("layer?.*.conv1", "layer[23].*.conv1")
    assert [millions(augmented(projection, {place: "aaconv"}, 32)) for place in places] == [36.313, 36.206]


@pytest.mark.parametrize(
    ("depth", "params"), [(56, 1.027), (92, 1.811), (128, 2.595), (164, 3.379), (236, 4.947), (452, 9.651)]
)
def test_a_residual_attention_network_is_as_deep_as_its_name(depth: int, params: float) -> None:
    """Layers of weights in the trunk: 36 m + 20."""
    with torch.device("meta"):
        model = ResidualAttentionNet(depth)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert sum("mask" not in name and "downsample" not in name for name in layers) == depth
    assert millions(model) == params


def test_attention_of_each_stage_has_the_parameters_of_the_aaconv_papers_appendix() -> None:
    """Its table of layers, by hand: queries, keys, values, the projection of the heads, and the relative tables."""
    tables, none = (
        [count(part) for part in sized("aa_resnet50", relative=given).modules() if isinstance(part, SelfAttention2d)]
        for given in (True, False)
    )
    assert tables == [43_128] * 4 + [89_720] * 6 + [191_240] * 3
    assert round(sum(tables) / 1e6, 3) == 1.285
    assert none[-1] == 190_720


@pytest.mark.parametrize(
    ("reduction", "groups", "params"),
    [(4, 1, 164.8), (4, 4, 62.5), (8, 1, 95.2), (8, 8, 35.5), (16, 1, 60.4), (16, 16, 28.4)],
)
def test_resnet50_with_gam_at_every_stage_is_as_large_as_by_hand(reduction: int, groups: int, params: float) -> None:
    spec = f"gam(reduction={reduction}, groups={groups})"
    model = augmented("resnet50", dict.fromkeys(("layer1", "layer2", "layer3", "layer4"), spec))
    assert millions(model, 1) == params


def test_triplet_attention_has_three_hundred_parameters_whatever_the_channels() -> None:
    counts = [count(saccade.create_attention("triplet", channels)) for channels in (16, 256)]
    assert counts == [300, 300]
