"""The papers' networks have the papers' sizes, run, learn, compile, and come back from files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import saccade
import saccade.nets
from saccade.cli import main
from saccade.errors import UsageError
from saccade.nets import CifarResNet, Host, ResidualAttentionNet, WideResNet
from saccade.nets.networks import NETWORKS
from saccade.profiling.macs import count_macs

# Counts in millions, to the digits that the papers, their authors' code, or calculations by hand from the papers' text
# give (facts of the papers' tables; the last of "unit" is 2**20 parameters, as ECA's authors count).
COUNTS = {
    "aa_resnet34": 20.745, "aa_resnet50": 25.809, "aa_resnet101": 45.387, "aa_resnet152": 61.614,
    "aa_resnet50_025": 24.304, "aa_resnet50_050": 22.343, "aa_resnet50_075": 20.735, "aa_resnet50_100": 19.384,
    "aa_mnasnet_100": 4.06, "aa_mnasnet_125": 5.53, "aa_mnasnet_140": 6.44,
    "wrn28_10": 36.278, "ge_wrn28_10": 36.3, "se_wrn28_10": 36.547, "aa_wrn28_10": 36.054,
    "se_resnet50": 28.072, "ge_resnet50": 25.6,
    "bam_resnet50": 25.92, "bam_resnet101": 44.91, "cbam_resnet50": 28.09, "cbam_resnet101": 49.33,
    "gala_resnet50": 29.4, "triplet_resnet18": 11.69, "triplet_resnet50": 25.56, "sge_resnet50": 25.56,
    "shuffle_resnet50": 25.56, "shuffle_resnet101": 44.55, "simam_resnet50": 25.56, "coord_mobilenetv2_100": 3.95,
    "gam_resnet18": 16.046, "bot_resnet50": 20.85, "sem_resnet83": 1.0141, "sem_resnet164": 1.9701,
}  # fmt: skip
ECA = {"eca_resnet18": 11.15, "eca_resnet34": 20.79, "eca_resnet50": 24.37, "eca_resnet101": 42.49}
# One of each family, at a size that a test has time for.
FAMILIES = {
    "aa_resnet34": 64, "aa_mnasnet_075": 64, "aa_wrn28_10": 16, "se_resnet50": 32, "ge_theta_resnet50": 224,
    "bam_resnet50": 32, "cbam_resnet50": 32, "eca_resnet18": 32, "gala_resnet50": 32, "triplet_resnet18": 32,
    "gc_resnet50": 32, "sge_resnet50": 32, "shuffle_resnet50": 32, "simam_resnet50": 32, "coord_mobilenetv2_100": 32,
    "gam_resnet18": 32, "nonlocal_resnet50": 32, "bot_resnet50": 64, "sem_resnet83": 16, "iebn_resnet83": 16,
    "residual_attention_92": 16, "stn_resnet20": 32,
}  # fmt: skip


def sized(name: str, **options: object) -> nn.Module:
    """The network without numbers."""
    with torch.device("meta"):
        return saccade.create_model(name, **options)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def digits(number: float) -> int:
    return len(str(number).partition(".")[2])


@pytest.mark.parametrize("name", COUNTS)
def test_every_count_is_the_papers_to_its_last_digit(name: str) -> None:
    assert round(count(sized(name)) / 1e6, digits(COUNTS[name])) == COUNTS[name]


@pytest.mark.parametrize("name", ECA)
def test_ecas_authors_count_in_units_of_two_to_the_twentieth(name: str) -> None:
    assert round(count(sized(name)) / 2**20, 2) == ECA[name]


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("aa_wrn28_10", 36.054, 36.2),
        ("ge_theta_resnet50", 31.107, 31.2),
        ("ge_theta_plus_resnet50", 33.638, 33.7),
        ("eca_resnet152", 60.193, round(57.41 * 2**20 / 1e6, 3)),
        ("residual_attention_92", 1.811, 1.9),
        ("residual_attention_236", 4.947, 5.1),
        ("aa_mnasnet_075", 3.015, 3.02),
    ],
)
def test_what_no_reading_of_the_paper_gives_is_told(name: str, ours: float, theirs: float) -> None:
    assert round(count(sized(name)) / 1e6, 3) == ours
    assert round(NETWORKS[name].params or 0, 3) == theirs
    assert f"`{name}`" in (Path(__file__).parents[2] / "docs/networks.md").read_text()


@pytest.mark.parametrize(("width", "delta"), [("0.75", 0.097), ("1.0", 0.167), ("1.25", 0.265), ("1.4", 0.325)])
def test_attention_adds_to_mnasnet_what_the_paper_says(width: str, delta: float) -> None:
    """The paper's differences leave out the relative tables, which its totals count."""
    name = f"aa_mnasnet_{round(100 * float(width)):03}"
    with torch.device("meta"):
        host = Host.parse(f"saccade:mnasnet_a1(width={width})").build()
    assert round((count(sized(name, relative=False)) - count(host)) / 1e6, 3) == delta


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
    assert [round(count(model) / 1e6, 4) for model in (host, *added)] == [base, se, eca, ie, sem]


def test_squeeze_and_excitation_counts_with_and_without_biases() -> None:
    counts = [count(sized("se_resnet50", bias=bias)) / 1e6 for bias in (True, False)]
    assert [round(counted, 3) for counted in counts] == [28.088, 28.072]


@pytest.mark.parametrize(
    ("depth", "params"), [(56, 1.027), (92, 1.811), (128, 2.595), (164, 3.379), (236, 4.947), (452, 9.651)]
)
def test_a_residual_attention_network_is_as_deep_as_its_name(depth: int, params: float) -> None:
    """Layers of weights in the trunk: 36 m + 20."""
    with torch.device("meta"):
        model = ResidualAttentionNet(depth)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert sum("mask" not in name and "downsample" not in name for name in layers) == depth
    assert round(count(model) / 1e6, 3) == params


def test_attention_goes_from_the_deepest_stage_outwards() -> None:
    """As the AAConv paper adds it, while memory lasts; the first of the three, on the largest map, at half its side."""
    stages = [
        sorted({edit.site[:6] for edit in saccade.plan_of(sized("aa_resnet50", stages=f"deepest:{n}")).edits})
        for n in (1, 2, 3)
    ]
    assert stages == [["layer4"], ["layer3", "layer4"], ["layer2", "layer3", "layer4"]]
    halved = [edit.site for edit in saccade.plan_of(sized("aa_resnet50")).edits if edit.options.get("downsample") == 2]
    assert halved == [f"layer2.{block}.conv2" for block in range(4)]


def test_the_shortcuts_of_a_wide_resnet_decide_its_count() -> None:
    with torch.device("meta"):
        pool, projection = WideResNet(), WideResNet(shortcut="projection")
    assert [round(count(model) / 1e6, 3) for model in (pool, projection)] == [36.278, 36.537]


# Of the papers' own tables; other figures count other operations (docs/networks.md).
MACS = {"wrn28_10": 5.2, "ge_wrn28_10": 5.2, "se_wrn28_10": 5.2, "coord_mobilenetv2_100": 0.31}


@pytest.mark.parametrize("name", MACS)
def test_macs_are_the_papers(name: str) -> None:
    with torch.device("meta"):
        side = NETWORKS[name].image_size
        macs = count_macs(saccade.create_model(name), torch.zeros(1, 3, side, side))
    assert round(macs / 1e9, digits(MACS[name])) == MACS[name]


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.macs is not None])
def test_macs_are_near_the_papers(name: str) -> None:
    """Within an eighth: who counts what differs (docs/networks.md tells by how much)."""
    network = NETWORKS[name]
    with torch.device("meta"):
        macs = count_macs(saccade.create_model(name), torch.zeros(1, 3, network.image_size, network.image_size))
    assert network.macs is not None
    assert macs / 1e9 == pytest.approx(network.macs, rel=0.13)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_member_of_each_family_runs_and_learns(name: str) -> None:
    torch.manual_seed(0)
    model, side = saccade.create_model(name, num_classes=5, image_size=FAMILIES[name]), FAMILIES[name]
    x = torch.randn(2, 3, side, side)
    out = model.train()(x)
    assert out.shape == (2, 5)
    out.square().mean().backward()
    learned = [path for path, parameter in model.named_parameters() if parameter.grad is not None]
    assert len(learned) == len(list(model.parameters()))
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, side = saccade.create_model(name, num_classes=5, image_size=FAMILIES[name]).eval(), FAMILIES[name]
    saccade.save(model, tmp_path / "network")
    again, x = saccade.load(tmp_path / "network").eval(), torch.randn(1, 3, side, side)
    assert torch.equal(model(x), again(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_can_be_compiled_and_exported(name: str) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    model, side = saccade.create_model(name, num_classes=5, image_size=FAMILIES[name]).eval(), FAMILIES[name]
    x = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        expected = model(x)
        assert torch.allclose(torch.export.export(model, (x,)).module()(x), expected, atol=1e-5)
        # That there is one graph; what compilers make of it, the tests of each mechanism tell.
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "side", "channels", "reduction"),
    [
        ("aa_resnet34", 64, [64, 64, 128, 256, 512], [2, 4, 8, 16, 32]),
        ("bam_resnet50", 64, [64, 256, 512, 1024, 2048], [2, 4, 8, 16, 32]),
        ("coord_mobilenetv2_100", 64, [16, 24, 32, 96, 320], [2, 4, 8, 16, 32]),
        ("sem_resnet83", 32, [64, 128, 256], [1, 2, 4]),
        ("residual_attention_92", 32, [64, 128, 256], [1, 2, 4]),
        ("aa_wrn28_10", 32, [160, 320, 640], [1, 2, 4]),
    ],
)
def test_timm_gives_its_features_by_stage(name, side, channels, reduction) -> None:
    model = timm.create_model(name, features_only=True)
    assert (model.feature_info.channels(), model.feature_info.reduction()) == (channels, reduction)
    maps = model.eval()(torch.zeros(1, 3, side, side))
    assert [tuple(each.shape) for each in maps] == [
        (1, c, side // r, side // r) for c, r in zip(channels, reduction, strict=True)
    ]


def test_features_are_those_with_attention() -> None:
    """BAM stands behind a stage: its map is the stage's feature."""
    torch.manual_seed(0)
    model = timm.create_model("bam_resnet50", features_only=True, out_indices=(1,)).eval()
    torch.manual_seed(0)
    plain = saccade.strip(saccade.create_model("bam_resnet50")).eval()
    x = torch.randn(1, 3, 64, 64)
    (ours,) = model(x)
    stem = plain.maxpool(plain.act1(plain.bn1(plain.conv1(x))))
    assert not torch.allclose(ours, plain.layer1(stem))


@pytest.mark.parametrize("first", ["import timm; import saccade.nets", "import saccade.nets; import timm"])
def test_timm_knows_the_networks_whichever_is_imported_first(first: str) -> None:
    code = f"{first}\nprint(timm.create_model('sem_resnet83', num_classes=3, in_chans=1).fc.out_features)"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "3", ran.stderr


def test_every_command_takes_them_as_hosts() -> None:
    with torch.device("meta"):
        model = Host.parse("saccade:aa_resnet34(kappa=0.5, num_classes=7, in_channels=1)").build()
        direct = sized("aa_resnet34", kappa=0.5, num_classes=7, in_channels=1)
    assert count(model) == count(direct)
    assert saccade.plan_of(model) == saccade.plan_of(direct)


def test_from_the_identity_a_network_computes_what_its_host_does() -> None:
    model = saccade.create_model("eca_resnet18", start="identity").eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), saccade.strip(model)(x))
    assert not torch.equal(saccade.create_model("eca_resnet18").eval()(x), model(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: saccade.create_model("aa_resnet51"), r"`name` \(='aa_resnet51'\) is no network .*did you mean"),
        (lambda: saccade.create_model("aa_resnet50", kapa=0.5), r"no option 'kapa' \(did you mean 'kappa'\?\)"),
        (lambda: saccade.create_model("wrn28_10", kappa=0.5), "wrn28_10 has no attention, and so no option 'kappa'"),
        (lambda: saccade.create_model("se_resnet50", start="zero"), r"`start` \(='zero'\) must be one of"),
        (lambda: saccade.create_model("se_resnet50", image_size=2), r"`image_size` \(=2\) must be an integer"),
        (lambda: timm.create_model("se_wrn28_10", pretrained=True), "there are no trained weights of se_wrn28_10"),
        (
            lambda: saccade.create_model("sem_resnet83", pretrained_host=True),
            r"`pretrained_host` \(=True\): there",
        ),
        (lambda: saccade.create_model("aa_resnet50", stages="last"), r"`stages` \(='last'\) must be 'deepest:N'"),
        (lambda: saccade.create_model("wrn28_10", stages="deepest:1"), r"`stages` .* wrn28_10 has no attention"),
        (lambda: ResidualAttentionNet(100), r"`depth` \(=100\) must be 36 m \+ 20; depth=92 is nearest"),
        (lambda: WideResNet(27), r"`depth` \(=27\) must be 6n \+ 4; depth=28 is nearest"),
        (lambda: WideResNet(shortcut="none"), r"`shortcut` \(='none'\) must be one of 'pool', 'projection'"),
    ],
)
def test_mistakes_are_named(call, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_the_list_shows_ours_beside_the_papers(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("saccade.cli.networks.NETWORKS", {n: NETWORKS[n] for n in ("aa_wrn28_10", "sem_resnet83")})
    for words in (["list", "--networks"], ["list", "--networks", "--json"]):
        monkeypatch.setattr("sys.argv", ["saccade", *words])
        with pytest.raises(SystemExit, match=r"^0$"):
            main()
    text, _, content = capsys.readouterr().out.partition("[")
    line = next(line for line in text.splitlines() if line.startswith("aa_wrn28_10"))
    assert line.split()[1:9] == ["36.054", "M", "36.2", "M", "6.146", "G", "5.45", "G"]
    entry = json.loads(f"[{content}")[0]
    assert (entry["name"], entry["params"], entry["paper_params_m"]) == ("aa_wrn28_10", 36_054_100, 36.2)
