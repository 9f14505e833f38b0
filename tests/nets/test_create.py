"""The papers' networks by name: what can be asked for, here and through timm, and what is refused with which words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

import saccade
from nets.saved import described
from nets.sizes import sized
from saccade.data import load_data
from saccade.errors import UsageError
from saccade.nets import CifarResNet, Host, ResidualAttentionNet, WideResNet, build_model
from saccade.nets.recognise import recognise
from saccade.recipes import read_recipe
from saccade.training.recipe import changed
from saccade.training.run import build
from training.runs import image_folder


def python(code: str) -> str:
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_timm_knows_the_networks_also_when_somebody_only_asked_where_it_is() -> None:
    code = """
import sys
from importlib.util import find_spec
import saccade.nets
assert find_spec("timm").name == find_spec("timm").name == "timm"
assert "timm" not in sys.modules
import timm
from saccade.nets.in_timm import _AfterTimm
print(timm.is_model("aa_resnet50"), any(isinstance(finder, _AfterTimm) for finder in sys.meta_path))
from saccade.nets.create import *
from saccade.nets.in_timm import *
print(aa_resnet50.__name__)
"""
    assert python(code).split() == ["True", "False", "aa_resnet50"]


def test_a_timm_that_is_not_there_is_not_found() -> None:
    code = """
import sys
from importlib.util import find_spec
import saccade.nets
sys.path.clear()
print(find_spec("timm"))
"""
    assert python(code) == "None"


def test_a_mnasnet_of_a_width_that_timm_does_not_name_comes_back_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = saccade.create_model("aa_mnasnet_125", num_classes=5, image_size=64, drop_rate=0.2).eval()
    saccade.save(model, tmp_path / "network")
    host, again = described(tmp_path / "network")["host"], saccade.load(tmp_path / "network").eval()
    assert (host["library"], host["name"]) == ("saccade", "mnasnet_a1")
    assert host["options"]["width"] == 1.25
    assert again.drop_rate == 0.2
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), again(x))


def test_a_mnasnet_of_ours_names_no_weights_of_timm() -> None:
    config = Host.parse("saccade:mnasnet_a1(width=1.25)").build().pretrained_cfg
    assert not {"url", "file", "hf_hub_id"} & config.keys()


def test_options_go_to_the_mechanism_or_else_to_the_host() -> None:
    model = sized("aa_resnet50", kappa=0.5, drop_rate=0.3, global_pool="max", output_stride=16, drop_path_rate=0.1)
    assert {edit.options["kappa"] for edit in saccade.plan_of(model).edits} == {0.5}
    assert model.drop_rate == 0.3
    assert isinstance(model.global_pool.pool, nn.AdaptiveMaxPool2d)
    assert model(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 1000)
    assert model.forward_features(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 2048, 4, 4)
    assert sized("wrn28_10", shortcut="projection").config["shortcut"] == "projection"


@pytest.mark.parametrize("name", ["aa_resnet34", "aa_mnasnet_125", "sem_resnet83"])
def test_timms_scripts_can_build_them(name: str) -> None:
    """They give every network a rate of dropout, and None for what nobody asked for."""
    with torch.device("meta"):
        model = timm.create_model(name, drop_rate=0.0, drop_path_rate=None, global_pool=None, num_classes=7, in_chans=1)
    assert model.num_classes == 7
    assert model.eval()(torch.zeros(1, 1, 32, 32, device="meta")).shape == (1, 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sized("AA_ResNet50"), r"did you mean 'aa_resnet50'.*saccade list --networks shows them$"),
        (lambda: sized(["aa_resnet50"]), r"`name` \(=\['aa_resnet50'\]\) is no network of ours"),
        (
            lambda: sized("aa_resnet50", kapa=0.5),
            r"aa_resnet50 has no option 'kapa' \(did you mean 'kappa'\?\): aaconv's options .* host timm:resnet50",
        ),
        (lambda: sized("aa_resnet50", drop_path_rat=0.5), r"no option 'drop_path_rat' \(did you mean 'drop_path_rate'"),
        (
            lambda: sized("wrn28_10", shortcat="pool"),
            r"'shortcat' \(did you mean 'shortcut'\?\), and .*: the host's are depth, widen, shortcut, dropout$",
        ),
        (lambda: sized("sem_resnet83", drop_rate=0.1), r"sem's options are .*, and its host saccade:cifar_resnet\("),
        (lambda: sized("wrn28_10", shortcut="none"), r"`shortcut` \(='none'\) must be one of"),
        (lambda: sized("aa_resnet50", pretrained=True), r"create_model\('aa_resnet50', pretrained_host=True\)"),
        (lambda: sized("aa_resnet50", in_chans=1), r"create_model\('aa_resnet50', in_channels=1\)"),
        (lambda: timm.create_model("aa_resnet50", in_channels=1), r"timm.create_model\('aa_resnet50', in_chans=1\)"),
        (
            lambda: sized("aa_mnasnet_140", pretrained_host=True),
            r"`pretrained_host` .* weights of timm:semnasnet_140",
        ),
        (
            lambda: sized("aa_mnasnet_125", pretrained_host=True),
            r"`pretrained_host` .* weights of saccade:mnasnet_a1",
        ),
        (lambda: sized("wrn28_10", pretrained_host=True), r"`pretrained_host` .* weights of saccade:wide_resnet"),
        (lambda: sized("aa_resnet50", in_channels=0), r"`in_channels` \(=0\) must be an integer of at least 1"),
        (lambda: sized("aa_resnet50", in_channels="3"), r"`in_channels` \(='3'\) must be an integer of at least 1"),
        (lambda: sized("aa_resnet50", in_channels=True), r"`in_channels` \(=True\) must be an integer of at least 1"),
        (lambda: sized("aa_resnet50", num_classes=-1), r"`num_classes` \(=-1\) must be an integer of at least 0"),
    ],
)
def test_mistakes_are_named(call, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.parametrize(
    ("out_indices", "channels"),
    [(None, [64, 128, 256]), (2, [128, 256]), ((0, 2), [64, 256]), ((-1,), [256]), ((-3, 1), [64, 128])],
)
def test_features_are_chosen_as_timms_are(out_indices, channels: list[int]) -> None:
    model = timm.create_model("sem_resnet83", features_only=True, out_indices=out_indices).eval()
    assert model.feature_info.channels() == channels
    assert [feature.shape[1] for feature in model(torch.zeros(1, 3, 16, 16))] == channels


@pytest.mark.parametrize("out_indices", [0, 4, (), (9,), (-4,)])
def test_features_that_are_not_there_are_named(out_indices) -> None:
    with pytest.raises(UsageError, match=r"`out_indices` .* of sem_resnet83 .* from -3 to 2, or .* from 1 to 3"):
        timm.create_model("sem_resnet83", features_only=True, out_indices=out_indices)


def tables(model: nn.Module) -> list[int]:
    """How many rows the relative tables have, from the first site to the last."""
    return list(dict.fromkeys(len(value) for name, value in model.state_dict().items() if name.endswith("rel_h")))


def test_relative_tables_have_the_size_of_the_images() -> None:
    """2 H - 1 rows of a map of height H: at 224 px 14 x 14 (the first stage at half its side) and 7 x 7."""
    with torch.device("meta"):
        of_the_paper = build_model("saccade:aa_resnet50", in_channels=3, num_classes=5)
        smaller = build_model("saccade:aa_resnet50", in_channels=3, num_classes=5, image_size=64)
        said = build_model("saccade:aa_resnet50(image_size=96)", in_channels=3, num_classes=5, image_size=64)
    assert [tables(model) for model in (of_the_paper, smaller, said)] == [[27, 13], [7, 3], [11, 5]]


def test_a_recipes_network_has_the_size_of_its_images(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", train=2, others=1, side=16)
    data = load_data(f"imagefolder:{images}", 64)
    recipe = changed(read_recipe("imagenet-aa-resnet50")[0], [f"data=imagefolder:{images}", "image_size=64"])
    assert tables(build(recipe, data)) == [7, 3]


def test_a_network_of_a_fixed_size_is_built_for_that_of_the_images() -> None:
    with torch.device("meta"):
        model = build_model("saccade:ge_theta_resnet50", in_channels=3, num_classes=5, image_size=64)
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize("side", [1, 7, 17, 30, 32, 33])
def test_a_wide_resnet_takes_images_of_any_size(side: int) -> None:
    model = WideResNet(10, widen=1, num_classes=5).eval()
    assert model(torch.randn(2, 3, side, side + 1)).shape == (2, 5)


def test_the_shortcut_of_a_last_column_is_its_own_mean() -> None:
    pool = WideResNet(10, widen=1).layer2[0].downsample
    out = pool(torch.arange(9.0).reshape(1, 1, 3, 3).expand(1, 16, 3, 3))
    assert out[0, pool.before].tolist() == [[2.0, 3.5], [6.5, 8.0]]


OURS = {
    "wide": lambda **options: WideResNet(10, widen=1, **options),
    "cifar": lambda **options: CifarResNet(8, **options),
    "residual": lambda **options: ResidualAttentionNet(56, **options),
}


@pytest.mark.parametrize("name", OURS)
def test_our_hosts_have_timms_interface(name: str) -> None:
    torch.manual_seed(0)
    model, x = OURS[name](num_classes=7).eval(), torch.randn(2, 3, 16, 16)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 4, 4)
    pooled = features.mean((2, 3))
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), pooled)
    assert model.get_classifier() is model.fc
    torch.testing.assert_close(model(x), pooled @ model.fc.weight.T + model.fc.bias)
    model.reset_classifier(4)
    assert (model.num_classes, model(x).shape) == (4, (2, 4))
    assert not model.fc.training
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    with pytest.raises(UsageError, match=r"`num_classes` \(=-1\) must be an integer of at least 0"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("classes", [0, 4])
def test_a_host_with_another_classifier_has_a_name(name: str, classes: int) -> None:
    model = OURS[name](num_classes=7)
    model.reset_classifier(classes)
    assert recognise(model).options["num_classes"] == classes
    assert list(model.state_dict()) == list(OURS[name](num_classes=classes).state_dict())


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_does_not_take_our_hosts_images_for_imagenets(channels: int) -> None:
    config = resolve_model_data_config(CifarResNet(8, in_channels=channels))
    assert config["input_size"] == (channels, 32, 32)
    assert len(config["mean"]) == len(config["std"]) == channels
    assert config["mean"] != timm.data.IMAGENET_DEFAULT_MEAN
