"""Hosts that copy badly, keep hooks, mix types, register their classes, or hide what they take."""

from __future__ import annotations

import threading
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm

import saccade
from saccade.errors import UsageError
from surgery.hosts import Block, C, H, Stemmed, W, cifar, conv, images, set_alpha, sites_of

PLACES = {"aaconv": "conv", "iebn": "norm"}


class Reused(nn.Module):
    """A bottleneck with one activation for all of its widths, which also ends the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.relu = conv(C, C // 4, 1), conv(C // 4, C, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.relu(self.c2(self.relu(self.c1(x))))


def test_a_branch_that_ends_in_a_module_of_several_widths_is_told_and_the_rest_can_be_edited() -> None:
    found = sites_of(Reused())
    assert found.counts() == {"conv": 1, "pointwise": 2, "stage": 1, "input": 1}
    assert found.notes[1:] == (
        "1 residual additions without a site: the module that ends the branch is called with several widths.",
    )
    host, x = Stemmed(Reused()).eval(), torch.rand(2, 3, H, W)
    model = saccade.augment(host, "aaconv", at=["conv", "pointwise"], example_input=x)
    assert len(saccade.plan_of(model)) == 3
    assert torch.equal(model(x), host(x))


def mixed() -> nn.Module:
    """A host in half precision whose batch norms are in full, as mixed training has them."""
    model = cifar().half()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    return model


@pytest.mark.parametrize("start", ["identity", "paper"])
@pytest.mark.parametrize("attention", ["se", "cbam", "gam", "stn", "nonlocal", "coord", "aaconv", "iebn"])
def test_attention_computes_in_the_type_of_the_maps(attention: str, start: str) -> None:
    host, x = mixed(), images().half()
    at = PLACES.get(attention, "residual")
    model = saccade.augment(host, attention, at=at, start=start, example_input=x)
    out = model(x)
    assert out.dtype == torch.half
    if start == "identity":
        assert torch.equal(out, host(x))
        assert {parameter.dtype for parameter in saccade.attention_parameters(model)} == {torch.half}


def test_a_copy_alone_runs_so_that_no_hook_of_the_callers_is_called() -> None:
    host, seen = cifar(), []
    host.layer1.register_forward_hook(lambda module, args, output: seen.append(output))
    host.layer2.register_forward_pre_hook(lambda module, args: seen.append(args))
    host.layer3.register_forward_hook(lambda module, args, kwargs, output: seen.append(output), with_kwargs=True)
    model = saccade.augment(host, "se", example_input=images(), inplace=True)
    saccade.find_sites(model, images())
    assert seen == []
    model(images())
    assert len(seen) == 3


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "hook", [weight_norm, spectral_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.3)]
)
def test_hooks_that_make_weights_run_in_the_copy(hook: Any) -> None:
    host = cifar()
    hook(host.layer1[0].conv1)
    host.eval()(images())
    assert saccade.find_sites(host, images()).counts() == saccade.find_sites(cifar(), images()).counts()


class Collects(nn.Module):
    """Features by hooks that are methods of a module: what the copy runs is the copy's own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.kept = cifar(), []
        self.body.layer2.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept.append(output)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = []
        self.body(x)
        return self.kept[0]


def test_hooks_of_the_hosts_own_run_in_the_copy() -> None:
    host = Collects().eval()
    assert saccade.find_sites(host, images()).counts()["residual"] == 3
    assert host.kept == []


def locked() -> nn.Module:
    host = cifar()
    host.lock = threading.Lock()
    host.layer1[0].held = {"locks": [threading.Lock()]}
    return host


def test_a_host_that_cannot_be_copied_is_edited_itself() -> None:
    host = locked()
    expected = host(images())
    assert saccade.find_sites(host, images()) == saccade.find_sites(cifar(), images())
    message = r"CifarResNet cannot be copied \(cannot pickle '_thread.lock' object\); inplace=True edits it itself"
    with pytest.raises(UsageError, match=message):
        saccade.augment(host, "se", example_input=images())
    saccade.augment(host, "se", example_input=images(), inplace=True)
    assert len(saccade.plan_of(host)) == 3
    with pytest.raises(UsageError, match=message):
        saccade.strip(host)
    assert torch.equal(saccade.strip(host, inplace=True)(images()), expected)


def test_a_host_that_registers_its_classes_does_not_get_ours() -> None:
    known: list[str] = []

    class Registered(nn.Module):
        def __init_subclass__(cls, *, name: str) -> None:
            known.append(name)

    class Own(Registered, name="own"):
        def __init__(self) -> None:
            super().__init__()
            self.layer = conv(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    host = nn.Sequential(Own(), conv())
    model = saccade.augment(host, "se", at="0", example_input=images())
    set_alpha(model, 0.5)
    assert isinstance(model[0], Own)
    assert known == ["own"]
    assert torch.equal(saccade.strip(model)(images()), host(images()))


def test_the_model_itself_cannot_be_replaced() -> None:
    layer, x = nn.Conv2d(3, 32, 3, padding=1), images()
    message = (
        r"'aaconv' takes the place of a module within the model, and here that is the model itself; give it as "
        r"nn.Sequential\(model\), or take start='identity', which keeps it"
    )
    with pytest.raises(UsageError, match=message):
        saccade.augment(layer, "aaconv", at="conv", start="paper", example_input=x)
    assert torch.equal(saccade.augment(layer, "aaconv", at="conv", example_input=x)(x), layer(x))
    assert len(saccade.plan_of(saccade.augment(nn.Sequential(layer), "aaconv", at="conv", start="paper"))) == 1


class HeadFirst(nn.Module):
    """Modules defined in another order than they run in."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.head, self.stem = conv(16, 4), conv(inputs, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x))


def test_a_head_that_is_defined_first_does_not_hide_how_many_channels_an_image_has() -> None:
    sites = saccade.find_sites(HeadFirst(3))
    assert [site.path for site in sites if site.kind == "input"] == ["stem"]
    assert sites.notes == ("Maps for an input of 3 x 224 x 224 (the default; give `example_input` for another).",)
    message = (
        r"HeadFirst cannot be run on an example of shape \(1, 16, 224, 224\): .*images of 16 and 3 channels were tried"
    )
    with pytest.raises(UsageError, match=rf"(?s){message}"):
        saccade.find_sites(HeadFirst(1))
    assert len(saccade.find_sites(HeadFirst(1), torch.zeros(1, 1, 8, 8))) > 0


Pair = namedtuple("Pair", ["image", "scale"])


class TakesPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(3)

    def forward(self, pair: Pair) -> Tensor:
        return self.layer(pair.image) * pair.scale


def test_a_named_tuple_is_one_argument() -> None:
    host, pair = TakesPair(), Pair(images(), torch.full((), 2.0))
    for example in (pair, (pair,)):
        model = saccade.augment(host, "se", at="conv", example_input=example)
        assert torch.equal(model(pair), host(pair))


@pytest.mark.parametrize("attention", ["aaconv", "sk", "coordconv", "bot", "halo", "lambda"])
def test_padding_in_words_is_followed(attention: str) -> None:
    for padding in ("valid", "same"):
        host = nn.Sequential(conv(3), nn.Conv2d(C, 16, 3, padding=padding)).eval()
        model = saccade.augment(host, attention, at="1", example_input=images())
        assert torch.equal(model(images()), host(images()))
        other = torch.rand(1, 3, 21, 17)
        assert torch.equal(model(other), host(other))


class Normalize(nn.Module):
    """Named for a norm, and a subtraction with a division by constants."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


class NormAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class InstanceNormByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean((2, 3), keepdim=True)) * (x.var((2, 3), keepdim=True) + 1e-5).rsqrt()


class ChannelNormByFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)


def test_a_norm_is_what_normalises_not_what_is_named_so() -> None:
    host = nn.Sequential(
        Normalize(), conv(3), NormAttention(), conv(), InstanceNormByHand(), conv(), ChannelNormByFunction(), Block()
    )
    norms = [site.path for site in saccade.find_sites(host, images()) if site.kind == "norm"]
    assert norms == ["4", "6", "7.bn1", "7.bn2"]
