"""Global context against its equations in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.gc import GlobalContext
from saccade.errors import UsageError

FUSE = ("add", "mul", "add+mul")


def transformed(p: dict[str, np.ndarray], way: str, context: np.ndarray) -> np.ndarray:
    def layer(number: int, kind: str) -> np.ndarray:
        return p[f"fuse.{way}.{number}.{kind}"]

    hidden = layer(0, "weight") @ context + layer(0, "bias")
    hidden = (hidden - hidden.mean()) / np.sqrt(((hidden - hidden.mean()) ** 2).mean() + 1e-5)
    hidden = np.maximum(hidden * layer(1, "weight") + layer(1, "bias"), 0)
    return layer(3, "weight") @ hidden + layer(3, "bias")


@pytest.mark.parametrize("pooling", ["attention", "mean"])
@pytest.mark.parametrize("fuse", FUSE)
def test_equals_the_papers_equations(pooling: str, fuse: str) -> None:
    module = build("gc", 12, reduction=3, pooling=pooling, fuse=fuse).double()
    x = maps(2, 12, 5, 4, dtype=torch.float64)
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        pixels = [sample[:, i, j] for i, j in np.ndindex(5, 4)]
        weights = np.ones(20)
        if pooling == "attention":
            weights = np.exp([p["mask.weight"][0, :, 0, 0] @ pixel + p["mask.bias"][0] for pixel in pixels])
        context = sum(weight * pixel for weight, pixel in zip(weights, pixels, strict=True)) / weights.sum()
        for i, j in np.ndindex(5, 4):
            y = sample[:, i, j]
            if "mul" in fuse:
                y = y * sigmoid(transformed(p, "mul", context))
            expected[b, :, i, j] = y + transformed(p, "add", context) if "add" in fuse else y
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-11)
    np.testing.assert_allclose((x + module.term(x)).detach().numpy(), expected, rtol=1e-11, atol=1e-12)


def test_every_position_gets_the_same() -> None:
    module, x = build("gc", 32, reduction=4), maps(2, 32, 5, 4)
    assert module.term(x).shape == (2, 32, 1, 1)
    torch.testing.assert_close(module(x) - x, module.term(x).expand_as(x), rtol=1e-4, atol=1e-5)


def test_the_order_of_positions_does_not_matter() -> None:
    module, x = build("gc", 32, reduction=4).double(), maps(2, 32, 5, 4, dtype=torch.float64)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (5, 4))
    torch.testing.assert_close(module.term(shuffled), module.term(x), rtol=1e-9, atol=1e-10)


def test_the_context_of_a_constant_map_is_its_pixel() -> None:
    module, pixel = build("gc", 32), maps(2, 32, 1, 1)
    torch.testing.assert_close(module.context(pixel.expand(2, 32, 5, 4)), pixel[:, :, 0, 0])


def test_adding_starts_as_the_identity_and_a_product_at_one_half() -> None:
    x = maps(2, 32, 5, 4)
    for pooling in ("attention", "mean"):
        module = GlobalContext(32, pooling=pooling)
        assert module.starts_as_identity
        assert torch.equal(module(x), x)
    for fuse in ("mul", "add+mul"):
        module = GlobalContext(32, fuse=fuse)
        assert not module.starts_as_identity
        assert torch.equal(module(x), x / 2)


def test_the_mask_starts_from_kaimings_normal_distribution() -> None:
    mask = GlobalContext(4096).mask
    assert 0.9 < mask.weight.std().item() * (4096 / 2) ** 0.5 < 1.1
    assert not mask.bias.any()


def test_with_a_single_hidden_value_the_term_is_a_constant() -> None:
    """As the Card says: LayerNorm makes that value 0."""
    module = build("gc", 8)
    torch.testing.assert_close(module.term(maps(2, 8, 5, 4, seed=1)), module.term(maps(2, 8, 5, 4, seed=2)))


@pytest.mark.parametrize(("channels", "reduction"), [(64, 16), (64, 4), (8, 16), (1, 16)])
def test_has_the_parameters_of_the_authors_block(channels: int, reduction: int) -> None:
    width = max(1, channels // reduction)
    transform = 2 * channels * width + width + 2 * width + channels
    mask = channels + 1

    def count(**options: str) -> int:
        return sum(p.numel() for p in GlobalContext(channels, reduction=reduction, **options).parameters())

    assert count() == mask + transform
    assert count(fuse="mul") == mask + transform
    assert count(fuse="add+mul") == mask + 2 * transform
    assert count(pooling="mean") == transform


@pytest.mark.parametrize("fuse", FUSE[1:])
def test_every_way_of_fusing_exports(fuse: str) -> None:
    module = build("gc", 8, reduction=2, fuse=fuse)
    dims = {axis: torch.export.Dim(name, min=1, max=64) for axis, name in ((2, "height"), (3, "width"))}
    program = torch.export.export(module, (maps(2, 8, 6, 7),), dynamic_shapes=(dims,)).module()
    for size in [(9, 5), (1, 1)]:
        torch.testing.assert_close(program(maps(2, 8, *size)), module(maps(2, 8, *size)))


def test_options_that_do_not_fit_are_errors() -> None:
    with pytest.raises(UsageError, match=r"`pooling` \(='men'\) must be one of .*did you mean 'mean'"):
        GlobalContext(8, pooling="men")
    with pytest.raises(UsageError, match=r"`fuse` \(='mul\+add'\) must be one of 'add', 'mul', 'add\+mul'"):
        GlobalContext(8, fuse="mul+add")
    with pytest.raises(UsageError, match=r"`reduction` \(=0\) must be an integer of at least 1"):
        GlobalContext(8, reduction=0)
    with pytest.raises(UsageError, match=r"`channels` \(=0\) must be an integer of at least 1"):
        GlobalContext(0)
