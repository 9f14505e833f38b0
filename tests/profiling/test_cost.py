"""The cost of a network."""

import functools

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import saccade
from saccade.errors import UsageError
from saccade.nets import CifarResNet
from saccade.profiling.cost import measure


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
    assert attended.peak_memory_mib is None
    assert plain.latency_one.p50 > 0
    assert plain.throughput == pytest.approx(4 * 1e3 / plain.latency_ms)


def test_multiply_accumulates_are_of_the_batch_and_of_one_image():
    found = saccade.cost(nn.Conv2d(1, 2, 3), torch.zeros(5, 1, 4, 4), train=False)
    assert (found.batch_size, found.macs_per_image, found.macs) == (5, 2 * 9 * 4, 5 * 2 * 9 * 4)


def test_a_batch_of_one_is_timed_once():
    found = saccade.cost(nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 4, 4), train=False)
    assert found.latency_one is found.latency


def test_bytes_on_disk_are_those_of_the_file_beside_its_header(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    (cost,) = measure({"": model}, torch.zeros(2, 3, 4, 4), device="cpu", train=False, budget_s=0).values()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    assert cost.state_bytes == len(content) - 8 - int.from_bytes(content[:8], "little")


def test_a_tensor_of_two_names_is_one_on_disk():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, bias=False))
    model.append(model[0])
    (cost,) = measure({"": model}, torch.zeros(2, 3, 8, 8), device="cpu", train=False, budget_s=0).values()
    assert cost.state_bytes == 4 * 3 * 3 * 9


def test_several_networks_are_measured_as_each_alone():
    batch = torch.zeros(2, 1, 8, 8)
    costs = measure({"a": nn.Conv2d(1, 2, 3), "b": nn.Conv2d(1, 4, 3)}, batch, device="cpu", budget_s=0)
    alone = saccade.cost(nn.Conv2d(1, 4, 3), batch)
    for name in ("params", "macs", "state_bytes", "peak_memory"):
        assert getattr(costs["b"], name) == getattr(alone, name), name
    assert costs["a"].train_step.runs == costs["b"].train_step.runs >= 5


def test_a_network_that_gives_several_tensors_is_trained_on_their_means():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            return {"first": self.first(x), "others": [self.second(x), torch.arange(3)]}

    assert saccade.cost(Heads(), torch.zeros(2, 4)).train_step_ms > 0


@pytest.mark.parametrize("fails", [False, True])
def test_compiled_latency_or_why_there_is_none(fails, monkeypatch):
    def compiled(model):
        def run(x):
            if fails and isinstance(model, nn.Linear):
                raise RuntimeError("no compiler here\nand more lines")
            return model(x)

        run.eval = model.eval
        return run

    monkeypatch.setattr(torch, "compile", compiled)
    networks = {"linear": nn.Linear(4, 4), "other": nn.Sequential(nn.Linear(4, 4))}
    costs = measure(networks, torch.zeros(2, 4), device="cpu", train=False, compile=True, budget_s=0)
    assert costs["other"].latency_compiled.runs >= 5
    assert costs["other"].latency_one_compiled.runs >= 5
    assert costs["other"].compile_error is None
    assert costs["linear"].compile_error == ("RuntimeError: no compiler here" if fails else None)
    assert (costs["linear"].latency_compiled is None) == fails
    assert (costs["linear"].latency_one_compiled is None) == fails


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


def test_every_variant_is_compiled_however_many_share_their_code(monkeypatch):
    """Of one piece of code PyTorch compiles 8 forms by default, and runs what comes after as it is."""
    graphs = []

    def backend(graph, _examples):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend, dynamic=False))
    networks = {str(width): nn.Sequential(nn.Linear(4, width)) for width in range(2, 14)}
    costs = measure(networks, torch.zeros(2, 4), device="cpu", train=False, compile=True, budget_s=0)
    assert [cost.compile_error for cost in costs.values()] == [None] * 12
    assert len(graphs) == 24, "each for the batch and for one image"


@pytest.mark.parametrize(
    ("model", "example", "options", "message"),
    [
        ("resnet18", torch.zeros(1), {}, r"`model` .='resnet18'. must be an nn.Module"),
        (nn.Linear(4, 4), torch.zeros(0, 4), {}, r"`example_input` must be a tensor with a batch of at least one"),
        (nn.Linear(4, 4), [1.0], {}, r"`example_input` must be a tensor"),
        (nn.Linear(4, 4), torch.zeros(1, 4), {"device": "gpu"}, r"`device` .='gpu'. cannot be used here"),
        (nn.Linear(4, 4), torch.zeros(1, 4), {"device": "hpu"}, r"`device` .='hpu'. cannot be used here"),
        (nn.Linear(4, 4), torch.zeros(1, 4), {"device": "meta"}, r"`device` .='meta'. computes nothing"),
        (nn.Linear(4, 4).requires_grad_(False), torch.zeros(1, 4), {}, r"depends on no parameter that learns"),
    ],
)
def test_mistakes(model, example, options, message):
    with pytest.raises(UsageError, match=message):
        saccade.cost(model, example, **options)


def test_an_input_that_does_not_fit():
    with pytest.raises(UsageError, match=r"cannot be run on `example_input` of shape \(1, 3, 8, 8\)"):
        saccade.cost(CifarResNet(8, in_channels=1), torch.zeros(1, 3, 8, 8))


def test_a_batch_that_cannot_be_trained_on():
    model = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4))
    with pytest.raises(UsageError, match=r"cannot be trained on `example_input`: .*; give train=False"):
        saccade.cost(model, torch.zeros(1, 1, 8, 8))
    assert saccade.cost(model, torch.zeros(1, 1, 8, 8), train=False).train_step_ms is None
