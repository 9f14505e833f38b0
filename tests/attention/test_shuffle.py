"""Shuffle attention against its equations in plain numpy, and the shuffle alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention._shuffle import channel_shuffle
from saccade.attention.shuffle import ShuffleAttention
from saccade.errors import UsageError


@pytest.mark.parametrize(("channels", "groups"), [(12, 3), (12, 6), (12, 1), (12, 2), (20, None)])
@pytest.mark.parametrize("size", [(5, 4), (1, 1)], ids=str)
def test_equals_the_papers_equations(channels: int, groups: int | None, size: tuple[int, int]) -> None:
    module = build("shuffle", channels, groups=groups).double()
    x = maps(2, channels, *size, dtype=torch.float64)
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    half = len(p["channel_weight"])
    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        weighted = []
        for k, plane in enumerate(sample):
            i, mean = k % half, plane.sum() / plane.size
            if (k // half) % 2 == 0:
                weights = sigmoid(p["channel_weight"][i] * mean + p["channel_bias"][i])
            else:
                normalised = (plane - mean) / np.sqrt(((plane - mean) ** 2).sum() / plane.size + 1e-5)
                normalised = normalised * p["norm_weight"][i] + p["norm_bias"][i]
                weights = sigmoid(p["spatial_weight"][i] * normalised + p["spatial_bias"][i])
            weighted.append(weights * plane)
        # Two groups, dealt out in turn.
        for j in range(channels // 2):
            expected[b, 2 * j] = weighted[j]
            expected[b, 2 * j + 1] = weighted[channels // 2 + j]
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("channels", "groups", "width"),
    [(512, 64, 4), (128, 64, 1), (64, 32, 1), (96, 48, 1), (20, 10, 1), (2, 1, 1), (134, 1, 67)],
)
def test_groups_are_the_papers_or_the_largest_that_fit(channels: int, groups: int, width: int) -> None:
    module = ShuffleAttention(channels)
    assert module.groups == groups
    assert {key: p.shape for key, p in module.named_parameters()} == {
        f"{branch}_{kind}": (width,) for branch in ("channel", "spatial", "norm") for kind in ("weight", "bias")
    }


def test_starts_as_the_authors_do() -> None:
    module, x = ShuffleAttention(16, groups=2), maps(2, 16, 5, 4)
    state = module.state_dict()
    ones = {"channel_bias", "spatial_bias", "norm_weight"}
    assert all(torch.equal(value, torch.full_like(value, key in ones)) for key, value in state.items())
    assert not module.starts_as_identity
    torch.testing.assert_close(module(x), channel_shuffle(x, 2) * sigmoid(np.array(1.0)).item())


def test_the_gate_is_the_factor_before_the_shuffle() -> None:
    module, x = build("shuffle", 16, groups=2), maps(2, 16, 5, 4)
    gate = module.gate(x)
    assert gate.shape == x.shape
    assert ((gate > 0) & (gate < 1)).all()
    assert torch.equal(module(x), channel_shuffle(x * gate, 2))


def test_half_of_each_group_is_weighed_by_channel_and_half_by_space() -> None:
    gate = build("shuffle", 16, groups=2).gate(maps(2, 16, 5, 4)).unflatten(1, (2, 2, 4)).flatten(4)
    constant = (gate == gate[..., :1]).all(-1).all(-1)
    assert constant.tolist() == [[[True, False], [True, False]]] * 2


def test_a_permutation_of_positions_permutes_the_map() -> None:
    module, x = build("shuffle", 16, groups=2), maps(2, 16, 5, 4)
    torch.testing.assert_close(module(x.flip(2).transpose(2, 3)), module(x).flip(2).transpose(2, 3))


@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (6, 3), (12, 4), (5, 1), (5, 5)])
def test_channel_shuffle_deals_the_groups_out_in_turn(channels: int, groups: int) -> None:
    x = maps(2, channels, 3, 2)
    out = channel_shuffle(x, groups)
    width = channels // groups
    for g, i in np.ndindex(groups, width):
        assert torch.equal(out[:, i * groups + g], x[:, g * width + i])
    assert torch.equal(channel_shuffle(out, width), x)


def test_statistics_of_a_bfloat16_map_are_those_of_its_values() -> None:
    """At 100 a step of bfloat16 is 0.5: a mean or a deviation rounded to it would be far off."""
    module = build("shuffle", 8, groups=2)
    x = 100 + maps(2, 8, 14, 14, dtype=torch.bfloat16)
    gate = module.gate(x).unflatten(1, (2, 2, 2))
    exact = copy.deepcopy(module).double().gate(x.double()).unflatten(1, (2, 2, 2))
    assert module(x).dtype is torch.bfloat16
    # Of the second halves: the mean of the first is rounded to 8 bits.
    assert (gate[:, :, 1] - exact[:, :, 1]).abs().max() < 1e-6


@pytest.mark.parametrize("channels", [1, 3, 67])
def test_an_odd_number_of_channels_is_an_error(channels: int) -> None:
    with pytest.raises(UsageError, match=rf"`channels` \(={channels}\) must be even"):
        ShuffleAttention(channels)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (3, r"`2 \* groups` \(=6\) must divide `channels` \(=8\)"),
        (8, r"`2 \* groups` \(=16\) must divide `channels` \(=8\)"),
        (0, r"`groups` \(=0\) must be an integer of at least 1"),
    ],
)
def test_wrong_groups_are_errors(groups: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ShuffleAttention(8, groups=groups)


def test_no_channels_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"`channels` \(=0\) must be an integer of at least 1"):
        ShuffleAttention(0)
