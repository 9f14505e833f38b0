"""The non-local block against its equations in plain numpy, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention.builders import build, maps
from saccade.attention.nonlocal_ import PAIRWISE, NonLocal
from saccade.errors import UsageError

GAUSSIAN = ("embedded_gaussian", "gaussian")


def conv1x1(x: np.ndarray, p: dict[str, np.ndarray], layer: str) -> np.ndarray:
    """A 1 x 1 convolution of a map (C, H, W), pixel by pixel."""
    weight = p[f"{layer}.weight"][:, :, 0, 0]
    out = np.empty((len(weight), *x.shape[1:]))
    for i, j in np.ndindex(*x.shape[1:]):
        out[:, i, j] = weight @ x[:, i, j] + p[f"{layer}.bias"]
    return out


def halved(x: np.ndarray) -> np.ndarray:
    """The largest of every 2 x 2 pixels; a last odd row or column is left out, a single one stays."""
    _, height, width = x.shape
    tall, wide = min(2, height), min(2, width)
    rows = [
        [x[:, i : i + tall, j : j + wide].max(axis=(1, 2)) for j in range(0, width - wide + 1, wide)]
        for i in range(0, height - tall + 1, tall)
    ]
    return np.array(rows).transpose(2, 0, 1)


def similarity(p: dict[str, np.ndarray], pairwise: str, scale: float, q: np.ndarray, k: np.ndarray) -> float:
    if pairwise in GAUSSIAN:
        return math.exp(scale * (q @ k))
    if pairwise == "dot_product":
        return q @ k
    return max(0.0, p["pair.weight"][0, :, 0, 0] @ np.concatenate((q, k)))


def expected_output(module: NonLocal, x: np.ndarray) -> np.ndarray:
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    pairwise = module.pairwise
    source = halved(x) if module.subsample_input else x
    queries = x if pairwise == "gaussian" else conv1x1(x, p, "theta")
    keys = source if pairwise == "gaussian" else conv1x1(source, p, "phi")
    values = conv1x1(source, p, "g")
    if module.subsample and not module.subsample_input:
        keys, values = halved(keys), halved(values)
    answering = list(np.ndindex(*keys.shape[1:]))
    response = np.zeros((len(values), *x.shape[1:]))
    for i in np.ndindex(*x.shape[1:]):
        f = [similarity(p, pairwise, module.scale, queries[:, *i], keys[:, *j]) for j in answering]
        normaliser = sum(f) if pairwise in GAUSSIAN else len(answering)
        for weight, j in zip(f, answering, strict=True):
            response[:, *i] += weight * values[:, *j] / normaliser
    term = conv1x1(response, p, "output")
    if "norm.weight" in p:
        mean, var, weight, bias = (
            p[f"norm.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        term = (term - mean) / np.sqrt(var + 1e-5) * weight + bias
    return x + term


SUBSAMPLING = [{}, {"subsample": True}, {"subsample": True, "subsample_input": True}]


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("subsampling", SUBSAMPLING, ids=["full", "embeddings", "input"])
@pytest.mark.parametrize("size", [(5, 4), (1, 3)], ids=str)
def test_equals_the_papers_equations(pairwise: str, subsampling: dict[str, bool], size: tuple[int, int]) -> None:
    module = build("nonlocal", 6, pairwise=pairwise, **subsampling).double()
    x = maps(2, 6, *size, dtype=torch.float64)
    expected = np.stack([expected_output(module, sample) for sample in x.numpy()])
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("options", [{"scale": 0.3}, {"norm": False}, {"reduction": 3}, {"reduction": 1}], ids=str)
def test_options_change_the_equations_as_they_say(options: dict[str, float]) -> None:
    module = build("nonlocal", 6, **options).double()
    x = maps(1, 6, 4, 3, dtype=torch.float64)
    np.testing.assert_allclose(module(x).detach().numpy()[0], expected_output(module, x.numpy()[0]), rtol=1e-10)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_has_no_notion_of_place(pairwise: str) -> None:
    module, x = build("nonlocal", 8, pairwise=pairwise), maps(2, 8, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))

    def shuffled(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2)[:, :, order].unflatten(2, (5, 4))

    torch.testing.assert_close(module(shuffled(x)), shuffled(module(x)), rtol=1e-4, atol=1e-5)


def test_a_change_of_one_pixel_reaches_every_pixel() -> None:
    module, x = build("nonlocal", 8, scale=0.1), maps(1, 8, 6, 7)
    other = x.clone()
    other[0, :, 0, 0] += 1
    assert ((module(other) - module(x)).abs().amax(dim=1) > 1e-5).all()


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_starts_as_the_identity(pairwise: str, norm: bool, mode: str) -> None:
    module, x = NonLocal(20, pairwise=pairwise, norm=norm).train(mode == "train"), maps(2, 20, 5, 4)
    assert module.starts_as_identity
    assert torch.equal(module(x), x)


def test_convolutions_start_small_and_without_biases() -> None:
    module = NonLocal(256, pairwise="concatenation")
    convolutions = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    assert set(convolutions) == {"theta", "phi", "g", "pair", "output"}
    for name, conv in convolutions.items():
        assert 0.008 < conv.weight.std().item() < 0.012, name
        assert conv.bias is None or not conv.bias.any()
    assert not module.norm.weight.any()
    assert not NonLocal(8, norm=False).output.weight.any()


def test_default_halves_the_channels_inside() -> None:
    assert NonLocal(64).g.out_channels == 32


@pytest.mark.parametrize(("channels", "reduction"), [(64, 2), (64, 4), (7, 2), (1, 2)])
def test_has_the_parameters_of_the_block(channels: int, reduction: int) -> None:
    width = max(1, channels // reduction)
    embedding, output = channels * width + width, width * channels + channels
    count = {
        pairwise: sum(p.numel() for p in NonLocal(channels, reduction=reduction, pairwise=pairwise).parameters())
        for pairwise in PAIRWISE
    }
    assert count["embedded_gaussian"] == count["dot_product"] == 3 * embedding + output + 2 * channels
    assert count["gaussian"] == embedding + output + 2 * channels
    assert count["concatenation"] == count["dot_product"] + 2 * width


@pytest.mark.parametrize("options", [{}, {"reduction": 8}, {"pairwise": "gaussian"}], ids=str)
def test_the_softmax_forms_run_in_a_fused_kernel(options: dict[str, object]) -> None:
    """A kernel that stores no weights; with contiguous rows or with those of channels last."""
    module = build("nonlocal", 8, **options).train()
    for layout in (torch.contiguous_format, torch.channels_last):
        x = maps(2, 8, 5, 4).to(memory_format=layout).requires_grad_()
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            module(x).sum().backward()


def test_the_cost_of_the_dot_product_is_linear_in_positions() -> None:
    """No tensor between input and output grows with the square of the number of positions."""
    module, x = build("nonlocal", 4, pairwise="dot_product"), maps(1, 4, 40, 40)
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(x.requires_grad_()).sum().backward()
    assert max(sizes) == x.numel()


@pytest.mark.parametrize(
    "options",
    [*({"pairwise": pairwise} for pairwise in PAIRWISE[1:]), {"subsample": True}, {"norm": False}],
    ids=str,
)
def test_one_exported_program_serves_every_size(options: dict[str, object]) -> None:
    least = 4 if "subsample" in options else 1
    module = build("nonlocal", 8, **options)
    dims = {axis: torch.export.Dim(name, min=least, max=64) for axis, name in ((2, "height"), (3, "width"))}
    shapes = ({0: torch.export.Dim("batch", min=1, max=64), **dims},)
    program = torch.export.export(module, (maps(2, 8, 6, 7),), dynamic_shapes=shapes).module()
    for size in [(1, 9, 5), (3, least, least), (2, least, 8)]:
        x = maps(size[0], 8, *size[1:])
        torch.testing.assert_close(program(x), module(x))


@pytest.mark.parametrize("name", ["subsample", "subsample_input", "norm"])
def test_a_switch_that_is_no_bool_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=rf"`{name}` \(=1\) must be True or False"):
        NonLocal(8, **{name: 1})


def test_options_that_do_not_fit_are_errors() -> None:
    with pytest.raises(UsageError, match=r"`pairwise` \(='gausian'\) must be one of .*did you mean 'gaussian'"):
        NonLocal(8, pairwise="gausian")
    with pytest.raises(UsageError, match=r"`reduction` \(=0\) must be an integer of at least 1"):
        NonLocal(8, reduction=0)
    with pytest.raises(UsageError, match=r"`channels` \(=0\) must be an integer of at least 1"):
        NonLocal(0)
    with pytest.raises(UsageError, match=r"`scale` \(=-1\) must be a number"):
        NonLocal(8, scale=-1)
    for pairwise in PAIRWISE[2:]:
        with pytest.raises(UsageError, match=rf"`scale` \(=0.5\) .*softmax.*pairwise='{pairwise}'"):
            NonLocal(8, pairwise=pairwise, scale=0.5)
    with pytest.raises(UsageError, match=r"`subsample_input` \(=True\) .*give subsample=True"):
        NonLocal(8, subsample_input=True)
