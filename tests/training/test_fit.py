"""Training is a function of model, data, settings and seed."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import saccade
from saccade._seeds import derive_seed
from saccade.data import ImageData, Split, TrainBatches
from saccade.errors import TrialError, UsageError
from saccade.profiling.timing import threads
from saccade.training import OptimSettings, ScheduleSettings, TrainSettings, accuracy, predict
from saccade.training.fit import Machine, fit
from saccade.training.learner import Epoch
from saccade.training.optim import make_factor


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
    factor = make_factor(ScheduleSettings(warmup=0.1), 8)
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


def test_attention_and_the_classifier_learn_first_then_all():
    host = network()
    model = saccade.augment(host, "se", at="conv", example_input=torch.zeros(1, 1, 8, 8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moved: list[set[str]] = []

    def told(_: Epoch) -> None:
        moved.append({name for name, value in model.state_dict().items() if not torch.equal(value, before[name])})

    settings = TrainSettings(epochs=2, batch_size=16, attention_first=1, optim=OptimSettings(lr=0.1))
    fit(model, stripes(), settings, 0, told)
    ours = {
        f"0.saccade.se.{name}"
        for name in ("alpha", *(f"attention.fc{n}.{p}" for n in (1, 2) for p in ("weight", "bias")))
    }
    assert moved[0] <= ours | {"4.weight", "4.bias"}
    assert {"0.saccade.se.alpha", "4.weight", "4.bias"} <= moved[0]
    assert moved[1] >= {"0.weight", "0.bias", "1.weight", "1.running_mean", "1.num_batches_tracked"}


@pytest.mark.parametrize(("name", "at"), [("sk", "conv"), ("iebn", "norm")])
def test_attention_in_a_modules_place_learns_with_its_own_batchnorms(name, at):
    host = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    host.append(nn.Linear(64, 2))
    site = {"conv": "2", "norm": "3"}[at]
    model = saccade.augment(host, name, at=site, start="paper", example_input=torch.zeros(1, 1, 8, 8))
    before = {path: value.clone() for path, value in model.named_buffers()}
    fit(model, stripes(), TrainSettings(epochs=1, batch_size=16, attention_first=1, optim=OptimSettings(lr=0.1)), 0)
    moved = {path for path, value in model.named_buffers() if not torch.equal(value, before[path])}
    statistics = {path for path in before if path.startswith(f"{site}.") and "running" in path}
    kept = {path for path in statistics if "saccade" in path}  # of the host's norm, which iebn's stands for
    assert statistics - kept
    assert moved >= statistics - kept
    assert not any(path.startswith(("1.", *({"3."} - {f"{site}."}))) for path in moved)


def test_the_average_of_the_weights_is_what_is_evaluated():
    model = network()
    average = model[4].weight.detach().clone()
    settings = TrainSettings(epochs=2, batch_size=16, ema=0.5, optim=OptimSettings(lr=0.05))
    weights: list[torch.Tensor] = []
    learner = fit(
        model, stripes(), settings, 0, on_batch=lambda done, total: weights.append(model[4].weight.detach().clone())
    )
    for value in weights:
        average = 0.5 * average + 0.5 * value
    assert learner.evaluated is not model
    assert torch.allclose(learner.evaluated[4].weight, average, atol=1e-6)
    assert int(learner.evaluated[1].num_batches_tracked) == len(weights)


def test_accumulated_batches_make_the_step_of_a_large_one():
    steps = []
    for batch_size, accumulate in ((16, 1), (8, 2)):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        settings = TrainSettings(epochs=2, batch_size=batch_size, accumulate=accumulate, optim=OptimSettings(lr=0.05))
        fit(model, stripes(), settings, 0)
        steps.append(model[1].weight)
    assert torch.allclose(steps[0], steps[1], atol=1e-6)


def test_the_last_step_of_an_epoch_weighs_its_few_batches_as_it_should():
    # 64 images in batches of 24: two, of which three would make a step.
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    ours = copy.deepcopy(model)
    optim = OptimSettings(lr=0.05, momentum=0, weight_decay=0)
    settings = TrainSettings(
        epochs=1, batch_size=24, accumulate=3, optim=optim, schedule=ScheduleSettings(name="constant", warmup=0)
    )
    fit(ours, stripes(), settings, 0)
    batches = list(TrainBatches(stripes(), 24, 0, settings.augment))
    assert len(batches) == 2
    sum(F.cross_entropy(model(images), labels) / 2 for images, labels in batches).backward()
    expected = model[1].weight - 0.05 * model[1].weight.grad
    assert torch.allclose(ours[1].weight, expected, atol=1e-6)


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 2)
        self.conv = nn.Conv2d(1, 32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


def test_the_classifier_learns_with_attention_wherever_it_stands():
    torch.manual_seed(0)
    image = torch.zeros(1, 1, 8, 8)
    # SE's first layer has as many outputs as there are classes, and comes later.
    augmented = saccade.augment(HeadFirst(), "se", at="conv", options={"reduction": 16}, example_input=image)
    before = {name: value.detach().clone() for name, value in augmented.named_parameters()}
    fit(augmented, stripes(), TrainSettings(epochs=1, batch_size=16, attention_first=1, optim=OptimSettings(lr=0.1)), 0)
    moved = {name for name, value in augmented.named_parameters() if not torch.equal(value, before[name])}
    assert {"fc.weight", "fc.bias"} < moved
    assert not {"conv.weight", "conv.bias"} & moved
    with pytest.raises(UsageError, match=r"`attention_first`: Sequential has no layer with 2 outputs"):
        fit(nn.Sequential(nn.Conv2d(1, 3, 3)), stripes(), TrainSettings(epochs=1, attention_first=1), 0)


def test_a_compiled_network_learns_the_same():
    plain, compiled = network(), network()
    settings = TrainSettings(epochs=1, batch_size=32, optim=OptimSettings(lr=0.02))
    plain[2].p = compiled[2].p = 0.0  # compiled dropout draws other numbers
    fit(plain, stripes(), settings, 0)
    fit(compiled, stripes(), settings, 0, machine=Machine(compile=True))
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_half_precision_trains_weights_that_stay_whole():
    model = network()
    fit(
        model,
        stripes(),
        TrainSettings(epochs=3, batch_size=16, precision="bf16-mixed", optim=OptimSettings(lr=0.02)),
        0,
    )
    assert model[0].weight.dtype == torch.float32
    assert accuracy(model, stripes(), "test") == 1.0


def test_the_learning_rate_rises_and_falls():
    factor = make_factor(ScheduleSettings(warmup=0.1), 100)
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
