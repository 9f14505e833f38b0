"""Polarized self-attention against its equations in plain numpy, in both layouts, the paper's form and the authors'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.psa import PolarizedSelfAttention
from saccade.errors import UsageError

FORMS = [(layout, form) for layout in ("parallel", "sequential") for form in ("paper", "authors")]
every_form = pytest.mark.parametrize(("layout", "form"), FORMS)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values)
    return powers / powers.sum()


class Equations:
    """The equations on one sample, with every convolution at every position, as they are written."""

    def __init__(self, module: PolarizedSelfAttention) -> None:
        self.p = {key: value.numpy() for key, value in module.state_dict().items()}
        self.layout, self.form = module.layout, module.form

    def linear(self, layer: str, z: np.ndarray) -> np.ndarray:
        weight = self.p[f"{layer}.weight"]
        return weight.reshape(len(weight), -1) @ z + self.p.get(f"{layer}.bias", 0)

    def everywhere(self, layer: str, x: np.ndarray) -> np.ndarray:
        """A 1 x 1 convolution at every position of x (C, positions)."""
        return np.stack([self.linear(layer, x[:, n]) for n in range(x.shape[1])], axis=1)

    def normalise(self, layer: str, z: np.ndarray) -> np.ndarray:
        mean = z.sum() / len(z)
        var = ((z - mean) ** 2).sum() / len(z)
        return (z - mean) / np.sqrt(var + 1e-5) * self.p[f"{layer}.weight"] + self.p[f"{layer}.bias"]

    def channel(self, x: np.ndarray) -> np.ndarray:
        weights = softmax(self.everywhere("channel_query", x)[0])
        value = self.everywhere("channel_value", x)
        z = sum(weights[n] * value[:, n] for n in range(x.shape[1]))
        z = self.linear("channel_up.0", z)
        if self.form == "paper":
            z = self.normalise("channel_up.1", z)
        elif self.layout == "sequential":
            z = self.linear("channel_up.3", np.maximum(self.normalise("channel_up.1", z), 0))
        return sigmoid(z)[:, None]

    def spatial(self, x: np.ndarray) -> np.ndarray:
        queries = self.everywhere("spatial_query", x)
        query = queries.sum(1) / queries.shape[1]
        value = self.everywhere("spatial_value", x)
        if self.form == "paper":
            query = softmax(query)
        elif self.layout == "sequential":
            value = np.stack([softmax(plane) for plane in value])
        scores = np.array([query @ value[:, n] for n in range(x.shape[1])])
        if self.form == "authors" and self.layout == "parallel":
            scores = softmax(scores)
        return sigmoid(scores)[None]

    def __call__(self, sample: np.ndarray) -> np.ndarray:
        x = sample.reshape(len(sample), -1)
        if self.layout == "parallel":
            out = self.channel(x) * x + self.spatial(x) * x
        else:
            x = self.channel(x) * x
            out = self.spatial(x) * x
        return out.reshape(sample.shape)


@every_form
@pytest.mark.parametrize("channels", [32, 9])
def test_equals_the_equations(layout: str, form: str, channels: int) -> None:
    module = build("psa", channels, layout=layout, form=form).double()
    x = maps(2, channels, 5, 4, dtype=torch.float64)
    expected = np.stack([Equations(module)(sample) for sample in x.numpy()])
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10)


def test_default_is_the_papers_parallel_layout() -> None:
    torch.testing.assert_close(
        build("psa", 20)(maps(2, 20, 5, 4)), build("psa", 20, layout="parallel", form="paper")(maps(2, 20, 5, 4))
    )


@every_form
@pytest.mark.parametrize("channels", [64, 20, 3])
def test_number_of_parameters(layout: str, form: str, channels: int) -> None:
    half = channels // 2
    narrow = max(1, half // 4)
    inner = channels + 3 * channels * half
    if form == "paper":
        expected = inner + 1 + 3 * half + (half * channels + channels) + 2 * channels
    elif layout == "parallel":
        expected = inner + half * channels
    else:
        expected = inner + (half * narrow + narrow) + 2 * narrow + (narrow * channels + channels)
    module = PolarizedSelfAttention(channels, layout=layout, form=form)
    assert sum(p.numel() for p in module.parameters()) == expected


@every_form
def test_the_gate_is_the_whole_factor_of_the_input(layout: str, form: str) -> None:
    module, x = build("psa", 32, layout=layout, form=form), maps(2, 32, 5, 4)
    gate = module.gate(x)
    assert gate.shape == x.shape
    assert ((gate > 0) & (gate < (2 if layout == "parallel" else 1))).all()
    torch.testing.assert_close(module(x), x * gate)


@every_form
def test_both_gates_lie_between_zero_and_one(layout: str, form: str) -> None:
    module, x = build("psa", 32, layout=layout, form=form), maps(2, 32, 5, 4)
    channel, spatial = module.channel_map(x), module.spatial_map(x)
    assert channel.shape == (2, 32, 1, 1)
    assert spatial.shape == (2, 1, 5, 4)
    for gate in (channel, spatial):
        assert ((gate > 0) & (gate < 1)).all()


@every_form
def test_positions_in_another_order_give_the_same_in_that_order(layout: str, form: str) -> None:
    module, x = build("psa", 32, layout=layout, form=form), maps(2, 32, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))

    def shuffled(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2)[:, :, order].unflatten(2, (5, 4))

    torch.testing.assert_close(module(shuffled(x)), shuffled(module(x)))


def test_the_authors_parallel_spatial_gate_is_the_sigmoid_of_weights_that_add_up_to_one() -> None:
    spatial = build("psa", 32, form="authors").spatial_map(maps(2, 32, 5, 4))
    torch.testing.assert_close(spatial.logit().sum((1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize(("channels", "form", "layout"), [(1, "paper", "parallel"), (8, "authors", "sequential")])
def test_layer_norm_of_one_value_makes_a_constant_channel_gate(channels: int, form: str, layout: str) -> None:
    module = build("psa", channels, form=form, layout=layout)
    first, second = (module.channel_map(maps(2, channels, 5, 4, seed=seed)) for seed in (2, 3))
    torch.testing.assert_close(first, second)
    # Not so with more values: the same is not true of the module in general.
    more = build("psa", 32, form=form, layout=layout)
    first, second = (more.channel_map(maps(2, 32, 5, 4, seed=seed)) for seed in (2, 3))
    assert (first - second).abs().max() > 1e-2


def test_a_large_query_does_not_overflow() -> None:
    module, x = build("psa", 20), 1000 * maps(2, 20, 5, 4)
    assert module(x).isfinite().all()


@every_form
def test_autocast_stays_near(layout: str, form: str) -> None:
    module, x = build("psa", 32, layout=layout, form=form), maps(2, 32, 7, 5)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            out = module(given)
            assert out.dtype is given.dtype
            # bfloat16 rounds by up to 2^-8 of a value: weights, activations and the gate, one after the other.
            assert (out.float() - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "serial"}, r"`layout` \(='serial'\) must be one of 'parallel', 'sequential'"),
        ({"form": "author"}, r"`form` \(='author'\) must be one of .*did you mean 'authors'"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PolarizedSelfAttention(8, **options)
