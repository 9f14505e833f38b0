"""Double attention against its equations in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention.builders import build, maps
from saccade.attention.a2 import DoubleAttention, double_attention
from saccade.errors import UsageError


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


@pytest.mark.parametrize("widths", [{}, {"features": 5, "maps": 3}, {"maps": 1}], ids=str)
def test_equals_the_papers_equations(widths: dict[str, int]) -> None:
    module, x = build("a2", 8, **widths).double(), maps(2, 8, 5, 4, dtype=torch.float64)
    m, n = widths.get("features", 2), widths.get("maps", 2)
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    weight, bias = p["project.weight"][:, :, 0, 0], p["project.bias"]
    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        pixels = sample.reshape(8, 20)
        rows = np.array([weight @ pixels[:, i] + bias for i in range(20)]).T
        features, gather, distribute = rows[:m], rows[m : m + n], rows[m + n :]
        gathered = np.zeros((n, m))
        for k in range(n):
            attention = softmax(gather[k])
            for i in range(20):
                gathered[k] += attention[i] * features[:, i]
        for i in range(20):
            attention = softmax(distribute[:, i])
            z = sum(attention[k] * gathered[k] for k in range(n))
            term = p["output.weight"][:, :, 0, 0] @ z + p["output.bias"]
            expected[b, :, i // 4, i % 4] = pixels[:, i] + term
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10)


def test_what_a_position_gets_lies_between_the_features() -> None:
    """Both attentions are means, so a constant feature comes back and no value leaves the range of its feature."""
    features = maps(2, 3, 5, 4)
    features[:, 0] = 2.5
    out = double_attention(features, 3 * maps(2, 6, 5, 4, seed=3), 3 * maps(2, 6, 5, 4, seed=4))
    torch.testing.assert_close(out[:, 0], torch.full((2, 5, 4), 2.5))
    assert (out[:, 1:].amax((2, 3)) < features[:, 1:].amax((2, 3))).all()
    assert (out[:, 1:].amin((2, 3)) > features[:, 1:].amin((2, 3))).all()


def test_has_no_notion_of_place() -> None:
    module, x = build("a2", 20).double(), maps(2, 20, 5, 4, dtype=torch.float64)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))

    def shuffled(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2)[:, :, order].unflatten(2, (5, 4))

    torch.testing.assert_close(module(shuffled(x)), shuffled(module(x)), rtol=1e-9, atol=1e-10)


def test_memory_is_linear_in_the_number_of_positions() -> None:
    module, x = build("a2", 4), maps(1, 4, 40, 40).requires_grad_()
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(x).sum().backward()
    assert max(sizes) == x.numel()


@pytest.mark.parametrize(
    ("channels", "widths", "m", "n"),
    [(64, {}, 16, 16), (3, {}, 1, 1), (16, {"features": 8, "maps": 6}, 8, 6), (8, {"maps": 30}, 2, 30)],
)
def test_has_the_parameters_of_its_widths(channels: int, widths: dict[str, int], m: int, n: int) -> None:
    count = sum(p.numel() for p in DoubleAttention(channels, **widths).parameters())
    assert count == (channels + 1) * (m + 2 * n) + (m + 1) * channels


def test_does_not_start_as_the_identity() -> None:
    module, x = DoubleAttention(16), maps(2, 16, 5, 4)
    assert not module.starts_as_identity
    assert not torch.equal(module(x), x)


@pytest.mark.parametrize("name", ["channels", "features", "maps"])
@pytest.mark.parametrize("value", [0, 1.5])
def test_widths_below_one_are_errors(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"`{name}` \(={value}\) must be an integer of at least 1"):
        DoubleAttention(**({"channels": 8} | {name: value}))
