"""Optimisers and schedules, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import saccade
from saccade.errors import UsageError
from saccade.nets import CifarResNet
from saccade.training import OptimSettings, ScheduleSettings
from saccade.training.optim import make_factor, make_optimiser, parameter_groups


def network() -> nn.Module:
    host = CifarResNet(8, widths=(4, 4, 4))
    return saccade.augment(host, "se", at="*.bn2", example_input=torch.zeros(1, 3, 16, 16))


def groups_of(settings: OptimSettings) -> dict[tuple[float, float], int]:
    model = network()
    groups = parameter_groups(model, settings)
    given = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(given) == sorted(map(id, model.parameters()))
    return {(group["lr"], group["weight_decay"]): len(group["params"]) for group in groups}


def test_one_group_by_default() -> None:
    assert groups_of(OptimSettings()) == {(0.1, 5e-4): len(list(network().parameters()))}


def test_attention_learns_at_a_rate_of_its_own_and_vectors_are_not_decayed() -> None:
    model = network()
    ours, host = saccade.attention_parameters(model), saccade.host_parameters(model)
    assert groups_of(OptimSettings(lr=0.1, attention_lr=0.5, weight_decay=0.01, decay_vectors=False)) == {
        (0.5, 0.01): sum(p.dim() > 1 for p in ours),
        (0.5, 0.0): sum(p.dim() <= 1 for p in ours),
        (0.1, 0.01): sum(p.dim() > 1 for p in host),
        (0.1, 0.0): sum(p.dim() <= 1 for p in host),
    }


def test_frozen_parameters_are_left_out_and_nothing_to_train_is_an_error() -> None:
    model = network()
    model.fc.requires_grad_(False)
    assert (
        sum(len(group["params"]) for group in parameter_groups(model, OptimSettings()))
        == len(list(model.parameters())) - 2
    )
    with pytest.raises(UsageError, match="no parameter that requires a gradient"):
        parameter_groups(model.requires_grad_(False), OptimSettings())


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("rmsproptf", torch.optim.Optimizer)]
)
def test_an_optimiser_by_name_makes_a_step(name: str, kind: type) -> None:
    model = network()
    optimiser = make_optimiser(model, OptimSettings(name=name, lr=0.01, weight_decay=0.0))
    assert isinstance(optimiser, kind)
    before = model.fc.weight.clone()
    model(torch.rand(2, 3, 16, 16)).square().sum().backward()
    optimiser.step()
    assert not torch.equal(model.fc.weight, before)


def test_an_unknown_optimiser_is_named() -> None:
    with pytest.raises(UsageError, match=r"`optim.name` \(='adamww'\) is no optimiser of timm \(did you mean 'adamw'"):
        make_optimiser(network(), OptimSettings(name="adamww"))


def rates(factor: object, steps: int) -> list[float]:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = factor(optimiser)
    seen = []
    for _ in range(steps):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return seen


def test_steps_are_those_of_pytorchs_schedule() -> None:
    settings = ScheduleSettings(name="step", warmup=0.0, milestones=(0.5, 0.75), gamma=0.2)
    ours = make_factor(settings, 40)
    theirs = rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 30], gamma=0.2), 40)
    assert [2.0 * ours(step) for step in range(40)] == pytest.approx(theirs)


def test_the_cosine_is_that_of_pytorch_after_a_linear_rise() -> None:
    ours = make_factor(ScheduleSettings(warmup=0.25), 40)
    assert [ours(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    theirs = rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30), 30)
    assert [2.0 * ours(step) for step in range(10, 40)] == pytest.approx(theirs)


def test_the_exponential_is_that_of_pytorch_and_ends_where_it_is_told_to() -> None:
    ours = make_factor(ScheduleSettings(name="exponential", warmup=0.25, final=0.05), 40)
    assert [ours(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    theirs = rates(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.05 ** (1 / 30)), 31)
    assert [2.0 * ours(step) for step in range(10, 41)] == pytest.approx(theirs)
    assert ours(40) == pytest.approx(0.05)


@pytest.mark.parametrize("name", ["adamw", "rmsproptf"])
def test_epsilon_is_the_optimisers(name: str) -> None:
    own, given = (make_optimiser(nn.Linear(2, 2), OptimSettings(name=name, eps=eps)) for eps in (None, 1e-3))
    assert (own.defaults["eps"] < 1e-6, given.defaults["eps"]) == (True, 1e-3)
    with pytest.raises(ValidationError, match=r"optim\.eps goes with an adaptive optimiser"):
        OptimSettings(name="sgd", eps=1e-3)


def test_a_constant_rate_may_rise_first() -> None:
    ours = make_factor(ScheduleSettings(name="constant", warmup=0.1), 40)
    assert [ours(step) for step in range(40)] == [0.25, 0.5, 0.75] + [1.0] * 37


@pytest.mark.parametrize("given", [{"lr": 0}, {"momentum": 1}, {"weight_decay": -1}, {"lr": float("inf")}, {"beta": 1}])
def test_a_number_that_cannot_be_is_an_error(given: dict) -> None:
    (name,) = given
    with pytest.raises(ValidationError, match=rf"(?m)^{name}$"):
        OptimSettings(**given)
