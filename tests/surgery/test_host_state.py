"""The host's own parameters and checkpoints in an augmented network, and training attention before all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade
from attention.builders import randomise
from saccade.errors import UsageError
from surgery.hosts import OPTIONS, augmented, cifar, images, settle, train

FORMS = [(name, start) for name in (*OPTIONS, "iebn") for start in ("identity", "paper")]
every_form = pytest.mark.parametrize(("attention", "start"), FORMS)


def with_attention(host: nn.Module, attention: str, start: str) -> nn.Module:
    if attention == "iebn":
        return saccade.augment(host, "iebn", at="*.bn2", start=start, example_input=images())
    return augmented(host, attention, start)


def pretrained() -> nn.Module:
    """A host with other weights than those of :func:`cifar`."""
    return randomise(cifar(), seed=5).eval()


@every_form
def test_the_hosts_checkpoint_loads_after_augmenting_as_before(attention: str, start: str) -> None:
    theirs, fresh = pretrained(), cifar()
    torch.manual_seed(1)
    before = with_attention(theirs, attention, start)
    torch.manual_seed(1)
    after = with_attention(fresh, attention, start)
    keys = saccade.load_host(after, theirs.state_dict())
    assert list(after.state_dict()) == list(before.state_dict())
    assert all(torch.equal(value, before.state_dict()[key]) for key, value in after.state_dict().items())
    assert torch.equal(after(images()), before(images()))
    assert torch.equal(saccade.strip(after)(images()), theirs(images()))
    if start == "identity":
        assert keys == [key for key in after.state_dict() if ".saccade." in key]
        assert torch.equal(after(images()), theirs(images()))


@every_form
def test_the_keys_that_are_missing_are_attentions_alone(attention: str, start: str) -> None:
    model, host = with_attention(cifar(), attention, start), cifar()
    missing = saccade.load_host(model, host.state_dict())
    assert missing
    brought = {id(tensor) for tensor in saccade.attention_parameters(model)}
    tensors = model.state_dict(keep_vars=True)
    assert {id(tensors[key]) for key in missing if isinstance(tensors[key], nn.Parameter)} == brought


def test_attention_keeps_its_values_when_the_hosts_checkpoint_is_loaded() -> None:
    model = train(augmented(cifar(), "gam"))
    before = {key: value.clone() for key, value in model.state_dict().items() if ".saccade." in key}
    theirs = pretrained().state_dict()
    saccade.load_host(model, theirs)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert all(torch.equal(state[key], value) for key, value in theirs.items())


def test_an_augmented_convolution_takes_the_first_filters_of_the_checkpoint() -> None:
    model = augmented(cifar(), "aaconv", "paper")
    theirs = pretrained()
    attention = copy.deepcopy(model.get_submodule("layer3.0.conv1").attention.state_dict())
    saccade.load_host(model, theirs.state_dict())
    conv = model.get_submodule("layer3.0.conv1")
    assert torch.equal(conv.conv.weight, theirs.get_submodule("layer3.0.conv1").weight[: conv.conv.out_channels])
    assert all(torch.equal(value, attention[key]) for key, value in conv.attention.state_dict().items())


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: without(s, "conv1.weight"), r"the checkpoint lacks conv1.weight \(1 and 0 in all\)"),
        (
            lambda s: without(s, "layer3.0.conv1.weight"),
            r"the checkpoint lacks layer3.0.conv1.weight \(1 and 0 in all\)",
        ),
        (lambda s: s | {"head.weight": torch.zeros(1)}, r"the host has no head.weight \(0 and 1 in all\)"),
        (
            lambda s: {f"module.{key}": value for key, value in s.items()},
            r"lacks conv1.weight, .*; the host has no module",
        ),
        (
            lambda s: s | {"fc.weight": torch.zeros(7, 32)},
            r"`state` has 'fc.weight' of shape \(7, 32\), the host of \(10, 32\)",
        ),
        (
            lambda s: s | {"layer3.0.conv1.weight": torch.zeros(1, 2, 3, 3)},
            r"`state` has 'layer3.0.conv1.weight' of shape \(1, 2, 3, 3\), the host of \(32, 16, 3, 3\)",
        ),
        (lambda _: {}, r"`state` is no checkpoint of this host: the checkpoint lacks .* \(\d+ and 0 in all\)"),
    ],
    ids=["missing", "missing-of-a-replaced-one", "unknown", "prefixed", "shape", "shape-of-a-replaced-one", "empty"],
)
def test_a_checkpoint_that_does_not_fit_is_an_error_and_loads_nothing(wrong, message: str) -> None:
    model = augmented(augmented(cifar(), "se"), "aaconv", "paper")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    host = saccade.strip(model).state_dict()
    with pytest.raises(UsageError, match=message):
        saccade.load_host(model, wrong(pretrained().state_dict()))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, host[key]) for key, value in saccade.strip(model).state_dict().items())


def test_a_checkpoint_of_the_augmented_network_is_not_the_hosts() -> None:
    model = augmented(cifar(), "se")
    with pytest.raises(UsageError, match=r"the host has no layer1.0.bn2.saccade.se.alpha"):
        saccade.load_host(model, model.state_dict())


def test_a_plain_host_loads_its_own_checkpoint_and_misses_nothing() -> None:
    host, theirs = cifar(), pretrained()
    assert saccade.load_host(host, theirs.state_dict()) == []
    assert torch.equal(host(images()), theirs(images()))


@every_form
def test_every_parameter_is_either_attentions_or_the_hosts(attention: str, start: str) -> None:
    model = with_attention(cifar(), attention, start)
    ours, theirs = saccade.attention_parameters(model), saccade.host_parameters(model)
    assert ours
    assert theirs
    together = [id(parameter) for parameter in (*ours, *theirs)]
    assert len(together) == len(set(together))
    assert set(together) == {id(parameter) for parameter in model.parameters()}
    replaced = [edit.site for edit in saccade.plan_of(model).edits if edit.start == "paper" and edit.mode == "replace"]
    names = {name for name, parameter in model.named_parameters() if id(parameter) in {id(p) for p in ours}}
    assert names == {
        name
        for name, _ in model.named_parameters()
        if ".saccade." in name or any(name.startswith(f"{site}.") for site in replaced)
    }


def test_a_plain_host_has_no_parameters_of_attention() -> None:
    host = cifar()
    assert saccade.attention_parameters(host) == []
    assert len(saccade.host_parameters(host)) == len(list(host.parameters()))


class Tied(nn.Module):
    """Two names for one weight; one module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.b.weight = self.a.weight
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.a(self.stem(x)).relu())
        return self.fc(self.bn(self.b(x).relu()).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:'bn' is called 2 times:UserWarning")
@pytest.mark.parametrize(("attention", "at"), [("se", "a"), ("aaconv", "a"), ("gam", "bn")])
def test_tied_weights_are_the_hosts_once(attention: str, at: str) -> None:
    host = settle(Tied())
    model = saccade.augment(host, attention, at=at, options=OPTIONS[attention], example_input=images())
    theirs = saccade.host_parameters(model)
    assert len({id(parameter) for parameter in theirs}) == len(theirs) == len(list(host.parameters()))
    assert model.a.weight is model.b.weight
    other = randomise(Tied()).eval()
    saccade.load_host(model, other.state_dict())
    assert model.a.weight is model.b.weight
    assert torch.equal(model(images()), other(images()))
    assert torch.equal(saccade.strip(model)(images()), other(images()))


def test_an_augmented_convolution_leaves_a_tied_weight_to_the_other() -> None:
    host = settle(Tied())
    model = saccade.augment(host, "aaconv", at="a", start="paper", example_input=images())
    assert any(parameter is model.b.weight for parameter in saccade.host_parameters(model))
    assert not any(parameter is model.b.weight for parameter in saccade.attention_parameters(model))
    assert torch.equal(saccade.strip(model)(images()), host(images()))


def step(model: nn.Module, optimiser: torch.optim.Optimizer, seed: int = 0) -> None:
    optimiser.zero_grad()
    F.cross_entropy(model(images(seed=seed)), torch.tensor([3, 7])).backward()
    optimiser.step()


def test_groups_of_an_optimiser_train_at_their_own_rates() -> None:
    model = augmented(cifar(), "se").train()
    ours, theirs = saccade.attention_parameters(model), saccade.host_parameters(model)
    before = [parameter.detach().clone() for parameter in theirs]
    start = [parameter.detach().clone() for parameter in ours]
    groups = [{"params": ours, "lr": 0.1, "weight_decay": 0.0}, {"params": theirs, "lr": 0.0}]
    optimiser = torch.optim.SGD(groups)
    for seed in range(3):
        step(model, optimiser, seed)
    assert all(torch.equal(parameter, value) for parameter, value in zip(theirs, before, strict=True))
    assert not any(torch.equal(parameter, value) for parameter, value in zip(ours, start, strict=True))


@pytest.mark.parametrize("start", ["identity", "paper"])
@pytest.mark.parametrize("attention", ["se", "aaconv"])
def test_attention_trains_first_and_then_all(attention: str, start: str) -> None:
    model = augmented(cifar(), attention, start)
    ours, theirs = saccade.attention_parameters(model), saccade.host_parameters(model)
    for parameter in theirs:
        parameter.requires_grad_(False)
    kept = [parameter.detach().clone() for parameter in theirs]
    optimiser = torch.optim.AdamW(ours, lr=1e-2)
    for seed in range(3):
        step(model, optimiser, seed)
    assert all(parameter.grad is None for parameter in theirs)
    assert all(torch.equal(parameter, value) for parameter, value in zip(theirs, kept, strict=True))
    for parameter in theirs:
        parameter.requires_grad_(True)
    optimiser.add_param_group({"params": theirs, "lr": 1e-2})
    step(model, optimiser)
    assert not any(torch.equal(parameter, value) for parameter, value in zip(theirs, kept, strict=True))


def test_a_frozen_host_stays_frozen_and_new_attention_can_learn() -> None:
    host = cifar()
    host.requires_grad_(False)
    model = augmented(augmented(host, "se"), "aaconv")
    assert not any(parameter.requires_grad for parameter in saccade.host_parameters(model))
    assert all(parameter.requires_grad for parameter in saccade.attention_parameters(model))


def test_what_an_augmented_convolution_takes_from_a_frozen_one_stays_frozen() -> None:
    host = cifar()
    host.requires_grad_(False)
    conv = augmented(host, "aaconv", "paper").get_submodule("layer3.0.conv1")
    assert not any(parameter.requires_grad for parameter in conv.conv.parameters())
    assert all(parameter.requires_grad for parameter in conv.attention.parameters())
