"""External attention against its equations in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention.builders import build, maps
from saccade.attention.external import ExternalAttention, ExternalMemory, external_attention
from saccade.errors import UsageError


def looked_up(pixels: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The paper's equation for pixels (C, N), one pair at a time."""
    logits = np.array([[key @ pixels[:, i] for i in range(pixels.shape[1])] for key in keys])
    weights = np.array([np.exp(row) / np.exp(row).sum() for row in logits])
    out = np.zeros_like(pixels)
    for i in range(pixels.shape[1]):
        total = 1e-9 + weights[:, i].sum()
        for s in range(len(keys)):
            out[:, i] += weights[s, i] / total * values[:, s]
    return out


@pytest.mark.parametrize("options", [{}, {"memories": 5}, {"memories": 5, "relu": True}], ids=str)
def test_equals_the_equations(options: dict[str, object]) -> None:
    module, x = build("external", 6, **options).double(), maps(2, 6, 5, 4, dtype=torch.float64)
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    matrix = {key: value[:, :, 0, 0] for key, value in p.items() if value.ndim == 4}
    scale = (p["norm.weight"] / np.sqrt(p["norm.running_var"] + 1e-5))[:, None]
    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        pixels = matrix["conv1.weight"] @ sample.reshape(6, 20) + p["conv1.bias"][:, None]
        context = matrix["conv2.weight"] @ looked_up(
            pixels, matrix["memory.keys.weight"], matrix["memory.values.weight"]
        )
        term = (context - p["norm.running_mean"][:, None]) * scale + p["norm.bias"][:, None]
        expected[b] = sample + term.reshape(6, 5, 4)
    if "relu" in options:
        expected = np.maximum(expected, 0)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10)


def test_every_position_gets_a_mean_of_the_memories() -> None:
    """The weights of a position sum to 1: equal memories come back, others stay within their range."""
    x, keys, values = maps(2, 6, 5, 4), maps(8, 6, 1, 1, seed=3), maps(6, 8, 1, 1, seed=4)
    values[0] = 1.5
    out = external_attention(x, keys, values)
    torch.testing.assert_close(out[:, 0], torch.full((2, 5, 4), 1.5))
    assert (out[:, 1:].amax((0, 2, 3)) < values[1:].amax((1, 2, 3))).all()
    assert (out[:, 1:].amin((0, 2, 3)) > values[1:].amin((1, 2, 3))).all()


def test_has_no_notion_of_place() -> None:
    module, x = build("external", 20), maps(2, 20, 5, 4)
    torch.testing.assert_close(module(x.flip(2, 3)), module(x).flip(2, 3), rtol=1e-4, atol=1e-5)


def test_on_a_single_pixel_the_term_is_a_constant() -> None:
    """As the Card says: a softmax over one position is 1."""
    module = build("external", 8)
    torch.testing.assert_close(module.term(maps(2, 8, 1, 1, seed=1)), module.term(maps(2, 8, 1, 1, seed=2)))


def test_starts_as_the_authors_do() -> None:
    module = ExternalAttention(512)
    for conv in (module.conv1, module.memory.keys, module.memory.values, module.conv2):
        assert 0.95 < conv.weight.std().item() * (512 / 2) ** 0.5 < 1.05
    keys, values = module.memory.keys.weight, module.memory.values.weight
    assert torch.equal(keys[:, :, 0, 0], values[:, :, 0, 0].T)
    assert keys.data_ptr() != values.data_ptr()
    assert module.norm.momentum == 3e-4
    assert not module.starts_as_identity


def test_the_two_memories_learn_apart() -> None:
    module = ExternalAttention(8, memories=4)
    module(maps(2, 8, 5, 4)).pow(3).sum().backward()
    keys, values = module.memory.keys.weight.grad, module.memory.values.weight.grad
    assert (keys[:, :, 0, 0] - values[:, :, 0, 0].T).abs().max() > 1e-3


def test_a_relu_ends_the_block_only_on_demand() -> None:
    x = maps(2, 20, 5, 4)
    plain, ended = build("external", 20), build("external", 20, relu=True)
    assert plain(x).min() < 0
    torch.testing.assert_close(ended(x), plain(x).clamp(min=0))
    torch.testing.assert_close(ended.term(x), plain.term(x))


@pytest.mark.parametrize(("channels", "memories"), [(512, 64), (3, 64), (8, 1)])
def test_has_the_parameters_of_the_authors_block(channels: int, memories: int) -> None:
    count = sum(p.numel() for p in ExternalAttention(channels, memories=memories).parameters())
    assert count == 2 * channels**2 + channels + 2 * channels * memories + 2 * channels
    assert sum(p.numel() for p in ExternalMemory(channels, memories).parameters()) == 2 * channels * memories


@pytest.mark.parametrize("name", ["channels", "memories"])
def test_sizes_below_one_are_errors(name: str) -> None:
    with pytest.raises(UsageError, match=rf"`{name}` \(=0\) must be an integer of at least 1"):
        ExternalAttention(**({"channels": 8} | {name: 0}))


def test_a_switch_that_is_no_bool_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"`relu` \(='yes'\) must be True or False"):
        ExternalAttention(8, relu="yes")


def test_has_64_memories_by_default() -> None:
    assert ExternalAttention(512).memory.keys.weight.shape == (64, 512, 1, 1)


def test_float16_stays_finite_where_all_weights_of_a_position_underflow() -> None:
    module = build("external", 16).half()
    with torch.no_grad():
        module.memory.keys.weight.mul_(20)
    assert module(maps(2, 16, 32, 32).half()).isfinite().all()
