"""The cost of a network."""

import pytest
import torch
from torch import nn

import saccade
from saccade.errors import UsageError
from saccade.nets import CifarResNet
from saccade.profiling.timing import median_ms, threads


def test_cost_of_a_network_and_of_the_attention_in_it():
    host = CifarResNet(8, in_channels=1, widths=(4, 8, 16))
    images = torch.randn(4, 1, 16, 16)
    plain = saccade.cost(host, images)
    attended = saccade.cost(saccade.augment(host, "se", at="*.bn2", example_input=images), images, train=False)
    assert plain.params == sum(parameter.numel() for parameter in host.parameters())
    assert attended.params > plain.params
    assert attended.macs > plain.macs
    assert plain.flops == 2 * plain.macs
    assert plain.latency_ms > 0
    assert plain.train_step_ms is not None
    assert plain.train_step_ms > 0
    assert attended.train_step_ms is None


def test_measuring_does_not_change_the_model():
    model = CifarResNet(8, in_channels=1, widths=(4, 8, 16))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saccade.cost(model, torch.randn(2, 1, 16, 16))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_without_parameters():
    with pytest.raises(UsageError, match=r"`model` .=ReLU. has no parameters"):
        saccade.cost(nn.ReLU(), torch.zeros(1))


def test_an_input_that_does_not_fit():
    with pytest.raises(UsageError, match=r"cannot be run on `example_input` of shape \(1, 3, 8, 8\)"):
        saccade.cost(CifarResNet(8, in_channels=1), torch.zeros(1, 3, 8, 8))


def test_a_batch_that_cannot_be_trained_on():
    model = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4))
    with pytest.raises(UsageError, match=r"cannot be trained on `example_input`: .*; give train=False"):
        saccade.cost(model, torch.zeros(1, 1, 8, 8))
    assert saccade.cost(model, torch.zeros(1, 1, 8, 8), train=False).train_step_ms is None


def test_actions_are_timed_in_turns():
    order = []
    times = median_ms(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, device=torch.device("cpu"), budget_s=0.0
    )
    assert set(times) == {"a", "b"}
    assert order == ["a", "b"] * 7


def test_threads_come_back_also_after_an_error():
    before, inside = torch.get_num_threads(), []

    def fail() -> None:
        with threads(before + 1):
            inside.append(torch.get_num_threads())
            raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match=r"on purpose"):
        fail()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before
