"""Training is a function of model, data, settings and seed."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from saccade._seeds import derive_seed
from saccade.data import ImageData, Split, TrainBatches
from saccade.errors import TrialError
from saccade.profiling.timing import threads
from saccade.training import OptimSettings, TrainSettings, accuracy, predict
from saccade.training.fit import fit
from saccade.training.optim import warmup_cosine


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):
        yield


def stripes(count: int = 64) -> ImageData:
    """Images of two classes, bright at the top or at the bottom: easily learnt."""
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
    images[labels == 0, :, :4] = 200
    images[labels == 1, :, 4:] = 200
    images += torch.randint(0, 50, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images, labels)
    return ImageData("stripes", ["top", "bottom"], split, split, split)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 2))


def train(seed: int, settings: TrainSettings | None = None) -> tuple[nn.Module, list]:
    model, epochs = network(), []
    fit(
        model,
        stripes(),
        settings or TrainSettings(epochs=3, batch_size=16, optim=OptimSettings(lr=0.02)),
        seed,
        epochs.append,
    )
    return model, epochs


def test_it_learns():
    model, epochs = train(0)
    assert accuracy(model, stripes(), "test") == 1.0
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert epochs[-1].val_accuracy == 1.0


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    first, _ = train(0)
    torch.rand(100)
    again, _ = train(0)
    other, _ = train(1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_it_is_the_loop_that_it_says_it_is():
    """A bare loop written from the description gives the same weights, bit for bit."""
    data, settings = stripes(), TrainSettings(epochs=2, batch_size=16, optim=OptimSettings(lr=0.05))
    ours, bare = network(), network().to(memory_format=torch.channels_last)
    fit(ours, data, settings, 5)
    optimiser = torch.optim.SGD(bare.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    factor = warmup_cosine(8, 0.1)
    batches = TrainBatches(data, 16, 5)
    step = 0
    bare.train()
    for epoch in range(2):
        batches.set_epoch(epoch)
        for images, labels in batches:
            torch.manual_seed(derive_seed(5, "step", step))
            for group in optimiser.param_groups:
                group["lr"] = 0.05 * factor(step)
            loss = nn.functional.cross_entropy(bare(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), bare.parameters(), strict=True))


def test_the_learning_rate_rises_and_falls():
    factor = warmup_cosine(100, 0.1)
    rates = [factor(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001


def test_a_loss_that_is_no_number_is_an_error():
    with pytest.raises(TrialError, match=r"the training loss became (nan|inf) in epoch 1"):
        train(0, TrainSettings(epochs=2, batch_size=16, optim=OptimSettings(lr=1e30)))


def test_evaluation_uses_running_statistics_and_leaves_model_and_mode_alone():
    model, _ = train(0)
    model.train()
    state = copy.deepcopy(model.state_dict())
    data = stripes()
    predicted = predict(model, data, "test")
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        expected = model.eval()(data.normalise(data.test.images)).argmax(1)
    assert torch.equal(predicted, expected)
