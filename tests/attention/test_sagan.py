"""SAGAN self-attention against its equations in plain numpy, in the paper's, the authors' and a popular form."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention.builders import build, maps
from saccade.attention.sagan import SAGANAttention, spectrally_normalised
from saccade.errors import UsageError

AUTHORS = {"value_reduction": 2, "pool": True, "spectral_norm": True}
POPULAR = {"value_reduction": None, "bias": True}
FORMS = pytest.mark.parametrize("options", [{}, AUTHORS, POPULAR], ids=["paper", "authors", "popular"])


def matrices(module: SAGANAttention, spectral: bool) -> dict[str, np.ndarray]:
    """The weights as they act, one power step from the stored vector where they are normalised."""
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    found = {}
    for layer in ("query", "key", "value", "output"):
        if f"{layer}.weight" not in p:
            continue
        w = p[f"{layer}.weight"][:, :, 0, 0]
        if spectral:
            v = w.T @ p[f"{layer}.u"]
            v /= np.linalg.norm(v)
            w = w / np.linalg.norm(w @ v)
        found[layer] = w
    return found


def halved(x: np.ndarray) -> np.ndarray:
    channels, height, width = x.shape
    out = np.empty((channels, height // 2, width // 2))
    for c, i, j in np.ndindex(*out.shape):
        out[c, i, j] = x[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max()
    return out


def expected_output(module: SAGANAttention, x: np.ndarray, spectral: bool) -> tuple[np.ndarray, np.ndarray]:
    """(y, the weights of all positions i for every position j)."""
    w = matrices(module, spectral)
    biases = {key.removesuffix(".bias"): b.numpy() for key, b in module.state_dict().items() if key.endswith(".bias")}

    def layer(name: str, x: np.ndarray) -> np.ndarray:
        return np.tensordot(w[name], x, axes=1) + biases.get(name, np.zeros(len(w[name])))[:, None, None]

    queries, keys, values = (layer(name, x) for name in ("query", "key", "value"))
    if module.pool:
        keys, values = halved(keys), halved(values)
    answering = list(np.ndindex(*keys.shape[1:]))
    context, weights = np.zeros((len(values), *x.shape[1:])), []
    for j in np.ndindex(*x.shape[1:]):
        beta = np.exp([queries[:, *j] @ keys[:, *i] for i in answering])
        beta /= beta.sum()
        weights.append(beta)
        for b, i in zip(beta, answering, strict=True):
            context[:, *j] += b * values[:, *i]
    context = layer("output", context) if "output" in w else context
    return x + module.gamma.item() * context, np.array(weights)


@FORMS
def test_equals_the_papers_equations(options: dict[str, object]) -> None:
    module, x = build("sagan", 16, **options).double(), maps(2, 16, 5, 4, dtype=torch.float64)
    for sample, actual, weights in zip(x.numpy(), module(x).detach().numpy(), module.attention_map(x), strict=True):
        y, beta = expected_output(module, sample, "spectral_norm" in options)
        np.testing.assert_allclose(actual, y, rtol=1e-10)
        np.testing.assert_allclose(weights.detach().numpy(), beta, rtol=1e-10)


@FORMS
def test_gamma_starts_at_zero_and_with_it_the_identity(options: dict[str, object]) -> None:
    module, x = SAGANAttention(16, **options), maps(2, 16, 5, 4)
    assert module.starts_as_identity
    assert torch.equal(module(x), x)
    assert module.term(x).abs().max() == 0
    module(x).square().sum().backward()
    assert module.gamma.grad.abs() > 0


def test_weights_start_from_xaviers_bounds_and_biases_from_zero() -> None:
    module = SAGANAttention(64, bias=True)
    for conv in (module.query, module.key, module.value, module.output):
        bound = (6 / (conv.in_channels + conv.out_channels)) ** 0.5
        assert 0.9 * bound < conv.weight.abs().max() <= bound
        assert not conv.bias.any()


def test_every_row_of_the_map_is_a_distribution() -> None:
    weights = build("sagan", 16, pool=True).attention_map(maps(2, 16, 5, 4))
    assert weights.shape == (2, 20, 4)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 20))


@pytest.mark.parametrize("channels", [64, 20, 3])
def test_has_the_parameters_of_each_form(channels: int) -> None:
    eighth, half = max(1, channels // 8), max(1, channels // 2)

    def count(**options: object) -> int:
        return sum(p.numel() for p in SAGANAttention(channels, **options).parameters())

    assert count() == 4 * channels * eighth + 1
    assert count(**AUTHORS) == 2 * channels * (eighth + half) + 1
    assert count(**POPULAR) == 2 * (channels * eighth + eighth) + channels**2 + channels + 1


def test_a_weight_is_divided_by_its_largest_singular_value_once_the_vector_has_converged() -> None:
    weight, u = maps(6, 9, 1, 1, seed=1), maps(6, seed=2)
    for _ in range(200):
        _, u = spectrally_normalised(weight, u)
    normalised, _ = spectrally_normalised(weight, u)
    torch.testing.assert_close(normalised, weight / torch.linalg.matrix_norm(weight[:, :, 0, 0], 2))


def test_gradients_flow_through_the_power_step() -> None:
    weight, u = maps(4, 3, 1, 1, dtype=torch.float64).requires_grad_(), maps(4, seed=3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda weight: spectrally_normalised(weight, u)[0], (weight,))


def test_train_mode_keeps_the_power_step_and_eval_mode_does_not() -> None:
    module, x = build("sagan", 16, **AUTHORS), maps(2, 16, 5, 4)
    before = {name: module.get_submodule(name).u.clone() for name in ("query", "key", "value", "output")}
    assert torch.equal(module(x), module(x))
    assert all(torch.equal(module.get_submodule(name).u, u) for name, u in before.items())
    module.train()(x).square().sum().backward()
    for name, u in before.items():
        conv = module.get_submodule(name)
        torch.testing.assert_close(conv.u, spectrally_normalised(conv.weight.detach(), u)[1])
        assert not torch.equal(conv.u, u)


def test_autocast_normalises_in_full_precision() -> None:
    conv = build("sagan", 16, **AUTHORS).value
    with torch.autocast("cpu", torch.bfloat16):
        weight, u = spectrally_normalised(conv.weight, conv.u)
    expected = spectrally_normalised(conv.weight, conv.u)
    assert torch.equal(weight, expected[0])
    assert torch.equal(u, expected[1])


@pytest.mark.parametrize("channels", [8, 16])
@FORMS
def test_runs_in_a_fused_kernel(options: dict[str, object], channels: int) -> None:
    module = build("sagan", channels, **options)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        module(maps(2, channels, 5, 4).requires_grad_()).sum().backward()


def test_a_gradient_penalty_runs_with_plain_attention() -> None:
    module, x = build("sagan", 8), maps(1, 8, 4, 3).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        (grad,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        grad.square().sum().backward()
    assert module.query.weight.grad.abs().max() > 0


@pytest.mark.parametrize("options", [AUTHORS, POPULAR], ids=["authors", "popular"])
def test_compiles_and_exports(options: dict[str, object]) -> None:
    module, x = build("sagan", 16, **options), maps(2, 16, 6, 8)
    least = 4 if "pool" in options else 1
    dims = {axis: torch.export.Dim(name, min=least, max=64) for axis, name in ((2, "height"), (3, "width"))}
    program = torch.export.export(module, (x,), dynamic_shapes=(dims,)).module()
    for size in [(9, 5), (least, least)]:
        torch.testing.assert_close(program(maps(2, 16, *size)), module(maps(2, 16, *size)))
    eager = copy.deepcopy(module.train())
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), eager(x))
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(module.state_dict()[key], value)


@pytest.mark.parametrize("name", ["channels", "reduction", "value_reduction"])
def test_sizes_below_one_are_errors(name: str) -> None:
    with pytest.raises(UsageError, match=rf"`{name}` \(=0\) must be an integer of at least 1"):
        SAGANAttention(**({"channels": 8} | {name: 0}))


@pytest.mark.parametrize("name", ["pool", "bias", "spectral_norm"])
def test_a_switch_that_is_no_bool_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=rf"`{name}` \(='no'\) must be True or False"):
        SAGANAttention(8, **{name: "no"})


def test_the_map_of_a_wrong_input_is_an_error() -> None:
    with pytest.raises(UsageError, match="sagan was built for 8 channels; got a map with 6"):
        SAGANAttention(8).attention_map(maps(2, 6, 5, 4))
