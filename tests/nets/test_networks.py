"""The papers' networks have attention at the papers' places, run, learn, compile, and come back from files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import saccade
import saccade.nets
from nets.sizes import count, sized
from saccade.cli import main
from saccade.errors import UsageError
from saccade.nets import Host, ResidualAttentionNet, WideResNet
from saccade.nets.networks import NETWORKS

# One network with each mechanism, and for aaconv one on each kind of host, at a size that a test has time for. Of other
# depths, widths and options of the same mechanism only parameters and multiply-accumulates are tested.
FAMILIES = {
    "aa_resnet34": 64, "aa_mnasnet_075": 64, "aa_wrn28_10": 16, "se_resnet50": 32, "ge_theta_resnet50": 224,
    "bam_resnet50": 32, "cbam_resnet50": 32, "eca_resnet18": 32, "gala_resnet50": 32, "triplet_resnet18": 32,
    "gc_resnet50": 32, "sge_resnet50": 32, "shuffle_resnet50": 32, "simam_resnet50": 32, "coord_mobilenetv2_100": 32,
    "gam_resnet18": 32, "nonlocal_resnet50": 32, "bot_resnet50": 64, "sem_resnet83": 16, "iebn_resnet83": 16,
    "residual_attention_92": 16, "stn_resnet20": 32,
}  # fmt: skip


def test_the_families_cover_every_mechanism() -> None:
    def used(names: Iterable[str]) -> set[str]:
        return {spec.partition("(")[0] for name in names for spec in NETWORKS[name].attention.values()}

    assert used(FAMILIES) == used(NETWORKS)


def test_attention_goes_from_the_deepest_stage_outwards() -> None:
    """As the AAConv paper adds it, while memory lasts; the first of the three, on the largest map, at half its side."""
    stages = [
        sorted({edit.site[:6] for edit in saccade.plan_of(sized("aa_resnet50", stages=f"deepest:{n}")).edits})
        for n in (1, 2, 3)
    ]
    assert stages == [["layer4"], ["layer3", "layer4"], ["layer2", "layer3", "layer4"]]
    halved = [edit.site for edit in saccade.plan_of(sized("aa_resnet50")).edits if edit.options.get("downsample") == 2]
    assert halved == [f"layer2.{block}.conv2" for block in range(4)]


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        (
            "simam_resnet50",
            [f"layer{n}.{b}.conv2" for n, blocks in zip("1234", (3, 4, 6, 3), strict=True) for b in range(blocks)],
        ),
        (
            "coord_mobilenetv2_100",
            [
                f"blocks.{n}.{b}.bn2"
                for n, blocks in zip("123456", (2, 3, 4, 3, 3, 1), strict=True)
                for b in range(blocks)
            ],
        ),
        ("nonlocal_resnet50", ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"]),
        ("bam_resnet50", ["layer1.2", "layer2.3", "layer3.5"]),
    ],
)
def test_attention_stands_where_the_authors_code_has_it(name: str, sites: list[str]) -> None:
    assert [edit.site for edit in saccade.plan_of(sized(name)).edits] == sites


def test_coordinate_attention_follows_the_activation_of_the_depthwise_convolution() -> None:
    block = sized("coord_mobilenetv2_100").get_submodule("blocks.1.0")
    parts = [name for name, _ in block.named_children()]
    assert parts[parts.index("conv_dw") + 1] == "bn2"
    assert isinstance(block.get_submodule("bn2.act"), nn.ReLU6)


def test_mnasnet_attends_at_half_the_side_where_maps_are_large() -> None:
    """Of the last 13 blocks' expansions those of the first stage."""
    edits = saccade.plan_of(sized("aa_mnasnet_100")).edits
    halved = [edit.site for edit in edits if edit.options.get("downsample") == 2]
    assert halved == ["blocks.2.0.conv_pw", "blocks.2.1.conv_pw", "blocks.2.2.conv_pw"]
    stages = zip("23456", (3, 4, 2, 3, 1), strict=True)
    assert [edit.site for edit in edits] == [f"blocks.{n}.{b}.conv_pw" for n, blocks in stages for b in range(blocks)]


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
