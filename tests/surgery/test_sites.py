"""Where an edit can go: what a site knows; containers; where an edit would do nothing; and what a trace leaves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade
from saccade.errors import UsageError
from saccade.surgery import Site, Survey
from surgery.hosts import cifar, images


def site_at(host: nn.Module, path: str, example: Any = None) -> Site:
    return Survey(host, example).resolve(path, "after")


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


def test_a_container_stands_for_its_last_member() -> None:
    model = saccade.augment(Host().eval(), "se", at="stem")
    assert [edit.site for edit in saccade.plan_of(model).edits] == ["stem.1.1"]
    assert len(model.stem) == 2
    assert len(model.stem[1]) == 2
    # A block's output: the last block of a stage.
    stage = saccade.augment(cifar(), "se", at="layer2", example_input=images())
    assert [edit.site for edit in saccade.plan_of(stage).edits] == ["layer2.0"]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("nothing", r"'nothing' is an empty Sequential: nothing flows through a module there"),
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
        site_at(Host().eval(), "stem.3")


def test_a_module_called_by_keyword_is_a_site() -> None:
    host = Host().eval()
    x = images()
    model = saccade.augment(host, "se", at="norm", example_input=x)
    assert torch.equal(model(x), host(x))
    paper = saccade.augment(host, "se", at="norm", start="paper", example_input=x)
    assert not torch.equal(paper(x), host(x))


def test_sites_carry_the_shapes_that_flow_there() -> None:
    site = site_at(cifar(), "layer2.0.conv1", torch.zeros(2, 3, 40, 32))
    assert site.in_size == (40, 32)
    assert (site.channels, site.height, site.width) == (16, 20, 16)
    assert (site.stride, site.layout, site.calls, site.kind) == (2, "nchw", 1, "conv")
    assert (site.size, site.positions) == ((20, 16), 320)


def test_the_size_in_the_hosts_config_is_the_default() -> None:
    assert site_at(cifar(), "conv1").size == (32, 32)
    host = cifar()
    host.pretrained_cfg = None
    assert site_at(host, "conv1").size == (224, 224)


class Anchors(nn.Module):
    """A part that keeps tensors for the next forward, as detection's anchor generators do, and looks at values."""

    def __init__(self, *, looks: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.looks = looks
        self.base = torch.arange(8.0)
        self.cells = [torch.arange(8.0)]
        self.cache: dict[tuple[int, ...], Tensor] = {}
        self.last: Tensor | None = None
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.looks and x.mean().item() > 1e9:
            return x
        y = self.bn(self.conv(x))
        self.last = y.mean()
        self.count += 1
        self.base = self.base + 1
        self.cells[0].add_(1)
        self.cache[tuple(y.shape)] = y
        return y


def kept(host: nn.Module) -> list[tuple[str, Any]]:
    """Whatever the modules of a host hold beside parameters, buffers and modules, in a form that compares."""
    own = {"_parameters", "_buffers", "_modules"}
    return [
        (path, {name: repr(value) for name, value in vars(module).items() if name not in own})
        for path, module in host.named_modules()
    ]


@pytest.mark.parametrize(
    "make",
    [cifar, Host, OnlyReal, lambda: Anchors(looks=False), lambda: Anchors(looks=True)],
    ids=["cifar", "host", "only-real", "caches", "caches-and-looks"],
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_looking_at_a_host_leaves_it_as_it_was(make, training: bool) -> None:
    host = make().train(training)
    path, norm = next((name, module) for name, module in host.named_modules() if isinstance(module, nn.BatchNorm2d))
    norm.train(not training)
    tensors = [*host.parameters(), *host.buffers()]
    values = [tensor.clone() for tensor in tensors]
    before = kept(host)
    assert len(saccade.find_sites(host, images())) > 0
    assert site_at(host, path, images()).kind == "norm"
    after = [*host.parameters(), *host.buffers()]
    assert all(new is old for new, old in zip(after, tensors, strict=True))
    assert all(torch.equal(new, value) for new, value in zip(after, values, strict=True))
    # The modes, the hooks and the host's own attributes are among these.
    assert kept(host) == before


def test_a_host_that_was_run_before_can_be_looked_at() -> None:
    """A forward with gradients leaves tensors on the modules that cannot be copied."""
    for looks in (False, True):
        host = Anchors(looks=looks)
        host(images())
        before = kept(host)
        assert site_at(host, "bn", images()).size == (38, 30)
        assert kept(host) == before


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
        Survey(Assertive(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match=r"CifarResNet cannot be run on an example of type dict: TypeError"):
        Survey(cifar(), {"image": images()})
    message = r"CifarResNet cannot be run on an example of .*, type int: TypeError.*tuple is taken as several"
    with pytest.raises(UsageError, match=message):
        Survey(cifar(), (images(), 3))


class Collated(nn.Module):
    """A host whose one argument holds images in a structure."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, batch: Any) -> Tensor:
        return self.conv(batch["images"][0] if isinstance(batch, dict) else torch.stack(list(batch)))


@pytest.mark.parametrize(
    "example",
    [{"images": [images()], "id": 3}, [images()[0]], ([images()[0]],), ({"images": [images()]},)],
    ids=["dict", "list", "list-alone", "dict-alone"],
)
def test_an_example_may_be_a_structure(example: Any) -> None:
    site = site_at(Collated(), "conv", example)
    assert (site.channels, site.height, site.width) == (8, 38, 30)


class Two(nn.Module):
    """A host with two arguments, one of them optional."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 8, 5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.first(x) if mask is None else self.first(x)[..., 2:, 2:] + self.second(mask)


def test_a_tuple_as_an_example_is_several_arguments() -> None:
    mask = torch.zeros(2, 1, 40, 32)
    assert site_at(Two(), "second", (images(), mask)).size == (36, 28)
    assert site_at(Two(), "first", (images(), mask)).size == (38, 30)
    assert site_at(Two(), "first", (images(),)) == site_at(Two(), "first", images())
    with pytest.raises(UsageError, match=r"'second' was not called when the host ran"):
        site_at(Two(), "second", images())


class Shared(nn.Module):
    """One convolution under two paths, run at two sizes; its weight is also another layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.later = nn.Sequential(nn.MaxPool2d(2), self.first)
        self.tied = nn.Conv2d(3, 3, 3, padding=1)
        self.tied.weight = self.first.weight
        self.relu = nn.ReLU()
        self.head = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.head(self.relu(self.tied(self.later(self.first(x))))))


@pytest.mark.parametrize("at", ["first", "later", "later.1", ["first", "later.1"], "*.1"], ids=str)
@pytest.mark.parametrize("start", ["paper", "identity"])
@pytest.mark.parametrize("attention", ["se", "aaconv"])
def test_a_module_under_two_paths_is_one_site_and_is_edited_under_both(attention: str, start: str, at: Any) -> None:
    host, x = Shared().eval(), images()
    with pytest.warns(UserWarning, match="'first' is called 2 times in one forward; one attention serves all of them"):
        model = saccade.augment(host, attention, at=at, start=start, example_input=x)
    assert [edit.site for edit in saccade.plan_of(model).edits] == ["first"]
    assert model.first is model.later[1]
    assert torch.equal(model(x), host(x)) is (start == "identity")
    stripped = saccade.strip(model)
    assert stripped.first is stripped.later[1]
    assert list(stripped.state_dict()) == list(host.state_dict())
    assert torch.equal(stripped(x), host(x))
    if attention == "aaconv":
        tables = {len(p) for name, p in model.named_parameters() if name.endswith("rel_h")}
        assert tables == {2 * 40 - 1}, "the tables have the size of the larger of the two maps"


def test_a_module_called_twice_is_one_site_that_says_so() -> None:
    site = site_at(Shared(), "later.1", images())
    assert (site.path, site.calls, site.size) == ("first", 2, (40, 32))
    assert "called 2 times" in str(saccade.find_sites(Shared(), images(), at="first"))


def test_looking_at_a_host_with_shared_modules_leaves_its_weights() -> None:
    host = Shared()
    weights = host.first.weight, host.tied.weight, host.first.bias, host.head.weight
    site_at(host, "head", images())
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
