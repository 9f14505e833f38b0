"""Copies of an augmented network own their attention: deep copies, pickles, moving averages, saved states."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import saccade
from surgery.hosts import OPTIONS, PLACES, augmented, cifar, images, set_alpha, torchvision_resnet, train


@pytest.fixture
def model() -> nn.Module:
    """Edits of every form: a gate blended in, a convolution blended in, a convolution replaced; attention at work."""
    host = augmented(cifar(), "se")
    host = saccade.augment(host, "aaconv", at="layer3.0.conv1", example_input=images())
    host = saccade.augment(host, "aaconv", at="layer2.0.conv2", start="paper", example_input=images())
    set_alpha(host, 0.5)
    return host.eval()


def pointers(model: nn.Module) -> set[int]:
    return {tensor.data_ptr() for tensor in model.state_dict(keep_vars=True).values()}


def round_trip(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))  # noqa: S301  our own bytes, from the line itself


COPIES = {"deepcopy": copy.deepcopy, "pickle": round_trip, "deepcopy-twice": lambda m: copy.deepcopy(copy.deepcopy(m))}
every_copy = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


@every_copy
def test_a_copy_computes_the_same_and_shares_no_memory(model: nn.Module, duplicate) -> None:
    other = duplicate(model)
    assert torch.equal(other(images()), model(images()))
    assert not pointers(other) & pointers(model)
    assert saccade.plan_of(other) == saccade.plan_of(model)
    assert list(other.state_dict()) == list(model.state_dict())


@every_copy
def test_what_is_done_to_a_copys_attention_shows_in_the_copy_alone(model: nn.Module, duplicate) -> None:
    before, other = model(images()), duplicate(model)
    set_alpha(other, 0.9)
    assert torch.equal(model(images()), before)
    assert not torch.allclose(other(images()), before, atol=1e-4)


@every_copy
def test_training_a_copy_leaves_the_original(model: nn.Module, duplicate) -> None:
    before = model(images())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    other = train(duplicate(model))
    assert torch.equal(model(images()), before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    moved = {key for key, value in other.state_dict().items() if not torch.equal(value, state[key])}
    assert any(key.endswith("saccade.se.alpha") for key in moved)


@every_copy
def test_a_copy_strips_to_the_host(model: nn.Module, duplicate) -> None:
    ours, theirs = saccade.strip(duplicate(model)), saccade.strip(model)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.equal(ours(images()), theirs(images()))


def test_augmenting_a_copy_leaves_the_original() -> None:
    host = augmented(cifar(), "se")
    other = saccade.augment(copy.deepcopy(host), "sem", at="*.bn2", inplace=True)
    assert len(saccade.plan_of(host)) == 3
    assert len(saccade.plan_of(other)) == 6


@pytest.mark.parametrize("attention", OPTIONS)
@pytest.mark.parametrize("start", ["paper", "identity"])
def test_the_state_goes_into_a_network_augmented_anew(attention: str, start: str) -> None:
    trained = train(augmented(cifar(), attention, start))
    fresh = augmented(cifar(), attention, start)
    fresh.load_state_dict(trained.state_dict(), strict=True)
    assert torch.equal(fresh(images()), trained(images()))


def test_a_moving_average_holds_its_own_attention(model: nn.Module) -> None:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    # The first update takes the values over; the next ones average.
    average.update_parameters(model)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    train(model)
    average.update_parameters(model)
    key = "layer1.0.bn2.saccade.se.attention.fc2.weight"
    expected = 0.5 * start[key] + 0.5 * model.state_dict()[key]
    torch.testing.assert_close(average.module.state_dict()[key], expected)
    assert not pointers(average.module) & pointers(model)
    assert saccade.plan_of(average.module) == saccade.plan_of(model)
    out = average(images())
    set_alpha(model, 0.0)
    assert torch.equal(average(images()), out)


SCRIPT = """
import sys, torch
model = torch.load(sys.argv[1], weights_only=False)
images, expected = torch.load(sys.argv[2])
import saccade
assert torch.equal(model(images), expected), "the loaded network computes something else"
print(saccade.plan_of(model).to_json())
assert not [key for key in saccade.strip(model).state_dict() if "saccade" in key]
"""


def test_a_pickle_opens_in_a_fresh_process(model: nn.Module, tmp_path: Path) -> None:
    torch.save(model, tmp_path / "model.pt")
    torch.save((images(), model(images()).detach()), tmp_path / "numbers.pt")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "model.pt"), str(tmp_path / "numbers.pt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == saccade.plan_of(model).to_json()


def test_classes_of_another_library_pickle_too() -> None:
    host = torchvision_resnet()
    model = saccade.augment(host, "se", at=PLACES["se"], example_input=images())
    set_alpha(model, 0.5)
    assert torch.equal(round_trip(model)(images()), model(images()))
