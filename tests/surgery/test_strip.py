"""Strip gives the host back: its modules, classes, names, values and outputs, whatever happened in between."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import saccade
from surgery.hosts import HOSTS, OPTIONS, augmented, cifar, images, set_alpha, train

every_form = pytest.mark.parametrize(
    ("attention", "start"), [(name, start) for name in OPTIONS for start in ("identity", "paper")]
)


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    """Every module of the same class with the same attributes, every tensor of the same bits, the same output."""
    modules = dict(theirs.named_modules())
    assert list(dict(ours.named_modules())) == list(modules)
    for path, module in ours.named_modules():
        assert type(module) is type(modules[path])
        assert vars(module).keys() == vars(modules[path]).keys()
        assert module.training == modules[path].training
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
    assert torch.equal(ours(images()), theirs(images()))


@pytest.mark.parametrize("host", HOSTS)
@every_form
def test_gives_the_host_back(host: str, attention: str, start: str) -> None:
    model = HOSTS[host]()
    assert_same(saccade.strip(augmented(model, attention, start)), model)


@every_form
def test_after_training_gives_the_trained_host_back(attention: str, start: str) -> None:
    host = cifar()
    trained = train(augmented(host, attention, start))
    expected = copy.deepcopy(host)
    # A convolution that was replaced did not take part in training and comes back as it was.
    expected.load_state_dict(
        {key: v for key, v in trained.state_dict().items() if key in host.state_dict()}, strict=False
    )
    stripped = saccade.strip(trained)
    assert_same(stripped, expected)
    assert not torch.allclose(stripped(images()), host(images()), atol=1e-3), "training must have changed the host"


@every_form
@pytest.mark.parametrize("via", ["deepcopy", "pickle"])
def test_gives_the_host_back_from_copies(attention: str, start: str, via: str) -> None:
    host = cifar()
    model = augmented(host, attention, start)
    # The bytes are our own, from the line itself.
    copied = copy.deepcopy(model) if via == "deepcopy" else pickle.loads(pickle.dumps(model))  # noqa: S301
    assert_same(saccade.strip(copied), host)


@pytest.mark.parametrize(("attention", "start"), [("gam", "identity"), ("aaconv", "paper")])
def test_gives_the_host_back_after_compiling(attention: str, start: str) -> None:
    host = cifar()
    model = augmented(host, attention, start)
    torch.compile(model, backend="eager")(images())
    # The host, too, since torch.compile leaves an attribute of its own on the module.
    torch.compile(host, backend="eager")
    assert_same(saccade.strip(model), host)


@every_form
def test_both_ways_are_out_of_place(attention: str, start: str) -> None:
    host = cifar()
    untouched = copy.deepcopy(host)
    model = augmented(host, attention, start)
    assert_same(host, untouched)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = model(images())
    train(saccade.strip(model))
    assert torch.equal(model(images()), before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert len(saccade.plan_of(model)) > 0


@every_form
def test_in_place_gives_the_same_object(attention: str, start: str) -> None:
    host = cifar()
    expected = copy.deepcopy(host)
    model = saccade.augment(host, attention, at="layer3.*.conv1", options=OPTIONS[attention], start=start, inplace=True)
    assert model is host
    assert len(saccade.plan_of(host)) == 1
    assert saccade.strip(host, inplace=True) is host
    assert_same(host, expected)


def test_a_plain_host_comes_back_as_it_is() -> None:
    host = cifar()
    assert_same(saccade.strip(host), host)


def test_takes_off_all_of_several_edits_at_one_site() -> None:
    host = cifar()
    model = host
    for attention, start in (("aaconv", "paper"), ("se", "identity"), ("gam", "paper")):
        model = saccade.augment(model, attention, at="layer3.0.conv1", start=start)
    assert len(saccade.plan_of(model)) == 3
    assert_same(saccade.strip(model), host)


def test_a_stripped_host_can_be_augmented_again() -> None:
    host = cifar()
    once = augmented(host, "se", "paper")
    again = augmented(saccade.strip(once), "se", "paper")
    again.load_state_dict(once.state_dict())
    assert torch.equal(again(images()), once(images()))


@every_form
def test_follows_a_change_of_type(attention: str, start: str) -> None:
    host = cifar()
    stripped = saccade.strip(augmented(host, attention, start).double())
    assert {p.dtype for p in stripped.parameters()} == {torch.float64}
    assert torch.equal(stripped(images().double()), host.double()(images().double()))


def test_leaves_nothing_behind_after_a_conversion_of_the_batch_norms() -> None:
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(augmented(cifar(), "se"))
    stripped = saccade.strip(converted)
    assert list(stripped.state_dict()) == list(cifar().state_dict())
    assert isinstance(stripped.get_submodule("layer1.0.bn2"), nn.SyncBatchNorm)


def test_alpha_does_not_matter_to_what_comes_back() -> None:
    host = cifar()
    model = augmented(host, "gam")
    set_alpha(model, 3.0)
    assert_same(saccade.strip(model), host)
