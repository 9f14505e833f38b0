"""Choosing sites: paths, globs and lists; containers; where an edit would do nothing; and what a trace leaves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade
from saccade.errors import UsageError
from saccade.surgery import match_paths, resolve_sites
from surgery.hosts import augmented, cifar, images


class Host(nn.Module):
    """Modules that are no sites: one is never called, a container is empty, one gives two values, one gives rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()))
        self.spare = nn.Conv2d(8, 8, 1)
        self.nothing = nn.Sequential()
        self.pair = Pair()
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.pair(self.nothing(self.stem(x)))
        return self.head(self.norm(input=x).mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class OnlyReal(nn.Module):
    """A host that looks at values, so that it cannot run without them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) if x.mean().item() < 1e9 else x


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
        r"It has \d+ modules, the last ones .*'fc'; name a path or a glob such as '\*\.bn2'"
    )
    with pytest.raises(UsageError, match=message):
        saccade.augment(cifar(), "se", at="layer1.0.bn3")
    with pytest.raises(UsageError, match=r"`at` \(='zzzzzz'\) matches no module of CifarResNet\. It has"):
        saccade.augment(cifar(), "se", at=["*.bn2", "zzzzzz"])
    with pytest.raises(UsageError, match=r"`at` \(=\[\]\) must name at least one module"):
        saccade.augment(cifar(), "se", at=[])
    for at in (None, 3, [3]):
        with pytest.raises(
            UsageError, match=r"`at` \(=.*\) must be a module's path, a glob such as '\*.bn2', or a list"
        ):
            saccade.augment(cifar(), "se", at=at)


def test_a_container_stands_for_its_last_member() -> None:
    model = saccade.augment(Host().eval(), "se", at="stem")
    assert [edit.site for edit in saccade.plan_of(model).edits] == ["stem.1.1"]
    assert len(model.stem) == 2
    assert len(model.stem[1]) == 2
    # A block's output: the last block of a stage.
    stage = saccade.augment(cifar(), "se", at="layer2", example_input=images())
    assert [edit.site for edit in saccade.plan_of(stage).edits] == ["layer2.0"]


def test_a_container_and_its_last_member_are_one_site() -> None:
    model = saccade.augment(cifar(), "se", at=["layer2", "layer2.0"], example_input=images())
    assert [edit.site for edit in saccade.plan_of(model).edits] == ["layer2.0"]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("nothing", r"'nothing' is an empty nn.Sequential: nothing flows through a module there"),
        ("spare", r"'spare' was not called when the host ran, so an edit there would do nothing"),
        ("pair", r"'pair' does not give a map of shape \(B, C, H, W\) but tuple; choose a module that does"),
        ("head", r"'head' does not give a map of shape \(B, C, H, W\) but \(1, 4\)"),
    ],
)
def test_where_an_edit_would_do_nothing_is_an_error(at: str, message: str) -> None:
    host = Host().eval()
    state = copy.deepcopy(host)
    with pytest.raises(UsageError, match=message):
        saccade.augment(host, "se", at=at, inplace=True)
    assert str(host) == str(state)


def test_a_path_that_the_host_lacks_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"the host has no module at 'stem.3'.*did you mean 'stem.1'"):
        resolve_sites(Host().eval(), ["stem.3"])


def test_a_module_called_by_keyword_is_a_site() -> None:
    host = Host().eval()
    x = images()
    model = saccade.augment(host, "se", at="norm", example_input=x)
    assert torch.equal(model(x), host(x))
    paper = saccade.augment(host, "se", at="norm", start="paper", example_input=x)
    assert not torch.equal(paper(x), host(x))


def test_sites_carry_the_shapes_that_flow_there() -> None:
    (site,) = resolve_sites(cifar(), ["layer2.0.conv1"], torch.zeros(2, 3, 40, 32))
    assert site.in_shape == (2, 8, 40, 32)
    assert site.out_shape == (2, 16, 20, 16)


def test_the_size_in_the_hosts_config_is_the_default() -> None:
    (site,) = resolve_sites(cifar(), ["conv1"])
    assert site.out_shape == (1, 8, 32, 32)
    host = cifar()
    host.pretrained_cfg = None
    (site,) = resolve_sites(host, ["conv1"])
    assert site.out_shape == (1, 8, 224, 224)


@pytest.mark.parametrize("make", [cifar, Host, OnlyReal])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_looking_at_a_host_leaves_it_as_it_was(make, training: bool) -> None:
    host = make().train(training)
    norm = next(module for module in host.modules() if isinstance(module, nn.BatchNorm2d))
    norm.train(not training)
    modes = [module.training for module in host.modules()]
    state = {key: value.clone() for key, value in host.state_dict().items()}
    path = next(name for name, module in host.named_modules() if module is norm)
    (site,) = resolve_sites(host, [path], images())
    assert len(site.out_shape) == 4
    assert [module.training for module in host.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in host.state_dict().items())
    assert not any(module._forward_hooks for module in host.modules())


def test_an_example_that_does_not_fit_leaves_it_as_it_was() -> None:
    host = cifar().train()
    message = (
        r"CifarResNet cannot be run on an example of shape \(1, 5, 32, 32\): .* give one that fits as `example_input`"
    )
    with pytest.raises(UsageError, match=message):
        saccade.augment(host, "se", at="*.bn2", example_input=torch.zeros(1, 5, 32, 32), inplace=True)
    assert all(module.training for module in host.modules())
    assert not any(module._forward_hooks for module in host.modules())
    assert len(saccade.plan_of(host)) == 0


class Assertive(nn.Module):
    """A host that takes one size and says so by an assertion."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 32:
            raise AssertionError("32 pixels")
        return self.conv(x)


def test_whatever_a_host_raises_on_an_example_is_told_as_one_that_does_not_fit() -> None:
    with pytest.raises(UsageError, match=r"Assertive cannot be run .* \(1, 3, 8, 8\): AssertionError: 32 pixels; give"):
        resolve_sites(Assertive(), ["conv"], torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match=r"CifarResNet cannot be run on an example of type dict: TypeError"):
        resolve_sites(cifar(), ["conv1"], {"image": images()})


class Collated(nn.Module):
    """A host whose one argument holds images in a structure."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, batch: Any) -> Tensor:
        return self.conv(batch["images"][0] if isinstance(batch, dict) else torch.stack(list(batch)))


@pytest.mark.parametrize("example", [{"images": [images()], "id": 3}, [images()[0]], (images()[0],)], ids=str)
def test_an_example_may_be_a_structure(example: Any) -> None:
    (site,) = resolve_sites(Collated(), ["conv"], example)
    assert site.out_shape[1:] == (8, 38, 30)


class Shared(nn.Module):
    """One convolution under two paths, run at two sizes; its weight is also another layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.stage = nn.Sequential(nn.MaxPool2d(2), self.first)
        self.tied = nn.Conv2d(3, 3, 3, padding=1)
        self.tied.weight = self.first.weight
        self.relu = nn.ReLU()
        self.head = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.head(self.relu(self.tied(self.stage(self.first(x))))))


@pytest.mark.parametrize("at", ["first", "stage", "stage.1", ["first", "stage.1"], "*.1"], ids=str)
@pytest.mark.parametrize("start", ["paper", "identity"])
@pytest.mark.parametrize("attention", ["se", "aaconv"])
def test_a_module_under_two_paths_is_one_site_and_is_edited_under_both(attention: str, start: str, at: Any) -> None:
    host, x = Shared().eval(), images()
    model = saccade.augment(host, attention, at=at, start=start, example_input=x)
    assert [edit.site for edit in saccade.plan_of(model).edits] == ["first"]
    assert model.first is model.stage[1]
    assert torch.equal(model(x), host(x)) is (start == "identity")
    stripped = saccade.strip(model)
    assert stripped.first is stripped.stage[1]
    assert list(stripped.state_dict()) == list(host.state_dict())
    assert torch.equal(stripped(x), host(x))
    if attention == "aaconv":
        tables = {len(p) for name, p in model.named_parameters() if name.endswith("rel_h")}
        assert tables == {2 * 40 - 1}, "the tables have the size of the larger of the two maps"


def test_looking_at_a_host_with_shared_modules_leaves_its_weights() -> None:
    host = Shared()
    weights = host.first.weight, host.tied.weight, host.first.bias, host.head.weight
    resolve_sites(host, ["head"], images())
    after = host.first.weight, host.tied.weight, host.first.bias, host.head.weight
    assert all(new is old for new, old in zip(after, weights, strict=True))
    assert {p.device.type for p in host.parameters()} == {"cpu"}


def test_a_module_called_on_maps_of_several_widths_is_an_error() -> None:
    with pytest.raises(
        UsageError, match=r"'relu' is called 2 times and gives maps of 3 and 8 channels; an edit serves"
    ):
        saccade.augment(Shared(), "se", at="relu", example_input=images())


class OfOurName(nn.Module):
    """A host with modules of its own under the name that edits have."""

    def __init__(self) -> None:
        super().__init__()
        self.saccade = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 1)})
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.saccade["conv"](x))


def test_a_hosts_own_modules_of_our_name_are_its_own() -> None:
    host = OfOurName().eval()
    assert len(saccade.plan_of(host)) == 0
    model = saccade.augment(host, "se", at=["saccade.conv", "bn"], start="paper", example_input=images())
    assert [edit.site for edit in saccade.plan_of(model).edits] == ["saccade.conv", "bn"]
    stripped = saccade.strip(model)
    assert list(stripped.state_dict()) == list(host.state_dict())
    assert torch.equal(stripped(images()), host(images()))


class Prior(nn.Module):
    def forward(self) -> Tensor:
        return torch.ones(1, 8, 1, 1)


class WithPrior(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.prior = nn.Conv2d(3, 8, 1), Prior()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.prior()


def test_a_module_without_input_is_a_site() -> None:
    host = WithPrior()
    assert torch.equal(saccade.augment(host, "se", at="prior", example_input=images())(images()), host(images()))
