"""Peak memory of a training step against networks whose activations are counted by hand."""

import pytest
import torch
from torch import nn

import saccade
from saccade.profiling.cost import train_step
from saccade.profiling.memory import training_bytes

SMALL = 256  # bytes of scalars: the loss, its gradient, a factor and its gradient
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.factor


def peak(model: nn.Module, batch: torch.Tensor) -> int:
    found = training_bytes(model, batch, train_step(model, batch))
    assert found is not None
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("depth", [1, 4])
def test_maps_kept_for_the_backward(depth, device):
    """Each sigmoid keeps its result. At the worst moment, as the backward begins, there are beside them the gradient
    that comes in and the one that goes out; and the batch, all the time."""
    model = nn.Sequential(Scale(), *[nn.Sigmoid() for _ in range(depth)]).to(device)
    batch = torch.ones(4, 1, 256, 256, device=device)
    small = 512 * 8 if device == "cuda" else SMALL
    assert peak(model, batch) == pytest.approx((depth + 2 + 1) * batch.nbytes, abs=small)


def test_weights_their_gradients_and_momentum():
    """Three times the weights, and what a gradient needs to be made: nothing here, since it is made in its place."""
    model = nn.Linear(1000, 500, bias=False)
    weights = 4 * 1000 * 500
    assert peak(model, torch.ones(1, 1000)) == pytest.approx(3 * weights, abs=4 * (1000 + 3 * 500) + SMALL)


def test_buffers_count_and_so_do_frozen_weights_once():
    model = nn.Sequential(nn.Linear(1000, 500, bias=False).requires_grad_(False), nn.Linear(500, 1))
    without = peak(model, torch.ones(1, 1000))
    assert without == pytest.approx(4 * 1000 * 500, abs=6 * 4 * 2000)
    model.register_buffer("table", torch.zeros(100_000))
    assert peak(model, torch.ones(1, 1000)) == without + 400_000


def test_the_peak_grows_by_what_a_bigger_batch_keeps():
    model = nn.Sequential(Scale(), nn.Sigmoid(), nn.Sigmoid())
    few, many = (peak(model, torch.ones(n, 1, 64, 64)) for n in (2, 10))
    assert many - few == pytest.approx(8 * 5 * 4 * 64 * 64, abs=SMALL)


def test_measuring_again_gives_the_same_and_prints_nothing(capfd):
    model, batch = nn.Conv2d(3, 8, 3), torch.ones(2, 3, 16, 16)
    assert peak(model, batch) == peak(model, batch)
    assert capfd.readouterr() == ("", "")


def test_a_device_without_a_counter():
    model, batch = nn.Linear(4, 4).to("meta"), torch.ones(2, 4, device="meta")
    assert training_bytes(model, batch, lambda: None) is None


def test_cost_tells_it_in_mib():
    batch = torch.ones(4, 1, 256, 256)
    found = saccade.cost(nn.Sequential(Scale(), nn.Sigmoid()), batch)
    assert found.peak_memory_mib == pytest.approx(4, abs=SMALL / 2**20)
