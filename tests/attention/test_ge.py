"""Gather-Excite against its equations in plain numpy, for every gather, excite and extent."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from attention.builders import build, maps, sigmoid
from saccade.attention.ge import GatherExcite
from saccade.errors import UsageError

SIZE = (7, 5)
MEAN, THETA = {"gather": "mean"}, {"gather": "depthwise"}
MLP = {"excite": "mlp", "reduction": 2}
CASES: list[dict[str, Any]] = [
    {},
    MLP,
    MEAN | {"extent": 2},
    MEAN | {"extent": 4},
    MEAN | {"extent": 8} | MLP,
    THETA | {"feature_size": SIZE},
    THETA | {"feature_size": SIZE} | MLP,
    THETA | {"feature_size": SIZE, "mlp_relu": False} | MLP,
    THETA | {"extent": 2},
    THETA | {"extent": 4} | MLP,
    THETA | {"extent": 8, "mlp_relu": False} | MLP,
]
every_case = pytest.mark.parametrize("options", CASES, ids=lambda case: "-".join(map(str, case.values())) or "default")


def mean_around(plane: np.ndarray, extent: int) -> np.ndarray:
    """The mean of the values of the map at most extent - 1 away from every extent-th position."""
    height, width = plane.shape
    rows, columns = range(0, height, extent), range(0, width, extent)
    out = np.empty((len(rows), len(columns)))
    for a, i in enumerate(rows):
        for b, j in enumerate(columns):
            out[a, b] = plane[max(0, i - extent + 1) : i + extent, max(0, j - extent + 1) : j + extent].mean()
    return out


def convolve_halving(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A 3 x 3 filter centred on every second position, zeros around the map."""
    padded = np.pad(plane, 1)
    rows, columns = range(0, plane.shape[0], 2), range(0, plane.shape[1], 2)
    return np.array([[(kernel * padded[i : i + 3, j : j + 3]).sum() for j in columns] for i in rows])


def normalise(value: np.ndarray, p: dict[str, np.ndarray], layer: int, c: int) -> np.ndarray:
    mean, var, weight, bias = (
        p[f"gather.{layer}.{key}"][c] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (value - mean) / np.sqrt(var + 1e-5) * weight + bias


def gather(plane: np.ndarray, c: int, p: dict[str, np.ndarray], options: dict[str, Any]) -> np.ndarray:
    extent = options.get("extent")
    if options.get("gather", "mean") == "mean":
        return mean_around(plane, extent) if extent else np.array([[plane.sum() / plane.size]])
    if extent is None:
        return normalise(np.array([[(p["gather.0.weight"][c, 0] * plane).sum()]]), p, 1, c)
    for step in range({2: 1, 4: 2, 8: 3}[extent]):
        plane = np.maximum(plane, 0) if step else plane
        plane = normalise(convolve_halving(plane, p[f"gather.{3 * step}.weight"][c, 0]), p, 3 * step + 1, c)
    return plane


def excite(gathered: np.ndarray, p: dict[str, np.ndarray], options: dict[str, Any]) -> np.ndarray:
    if options.get("excite", "none") == "none":
        return gathered
    out = np.empty(gathered.shape)
    for i, j in np.ndindex(*gathered.shape[1:]):
        value = gathered[:, i, j]
        if options.get("gather") == "depthwise" and options.get("mlp_relu", True):
            value = np.maximum(value, 0)
        hidden = np.maximum(p["fc1.weight"][:, :, 0, 0] @ value + p["fc1.bias"], 0)
        out[:, i, j] = p["fc2.weight"][:, :, 0, 0] @ hidden + p["fc2.bias"]
    return out


@every_case
def test_equals_the_papers_equations(options: dict[str, Any]) -> None:
    module, x = build("ge", 6, **options).double(), maps(2, 6, *SIZE, dtype=torch.float64)
    p = {key: value.numpy() for key, value in module.state_dict().items()}
    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        gathered = np.array([gather(plane, c, p, options) for c, plane in enumerate(sample)])
        weights = sigmoid(excite(gathered, p, options))
        for i, j in np.ndindex(*SIZE):
            nearest = weights[:, i * weights.shape[1] // SIZE[0], j * weights.shape[2] // SIZE[1]]
            expected[b, :, i, j] = nearest * sample[:, i, j]
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-11)


@every_case
def test_the_gate_is_between_zero_and_one(options: dict[str, Any]) -> None:
    module, x = build("ge", 6, **options), maps(2, 6, *SIZE)
    gate = module.gate(x)
    assert gate.shape == (2, 6, *(SIZE if "extent" in options else (1, 1)))
    assert ((gate > 0) & (gate < 1)).all()
    assert torch.equal(module(x), x * gate)


@every_case
def test_channels_mix_in_the_excite_alone(options: dict[str, Any]) -> None:
    module, x = build("ge", 6, **options).double(), maps(1, 6, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        for key, p in module.named_parameters():
            if key.endswith("bias"):
                p.fill_(5)  # No value is at rest under its ReLU.
    changed = x.clone()
    changed[:, 2] += 1
    seen = (module.gate(changed) != module.gate(x)).flatten(2).any(2)[0]
    assert seen.tolist() == [options.get("excite") == "mlp" or c == 2 for c in range(6)]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 0),
        ({"extent": 4}, 0),
        (THETA | {"feature_size": 14}, 256 * (196 + 2)),
        (THETA | {"feature_size": (7, 5)}, 256 * (35 + 2)),
        (THETA | {"extent": 8}, 3 * 256 * (9 + 2)),
        (THETA | {"extent": 2, "excite": "mlp"}, 256 * (9 + 2) + 2 * 256 * 16 + 16 + 256),
        ({"excite": "mlp", "reduction": 4}, 2 * 256 * 64 + 64 + 256),
    ],
)
def test_has_the_parameters_of_the_equations(options: dict[str, Any], count: int) -> None:
    assert sum(p.numel() for p in GatherExcite(256, **options).parameters()) == count


def test_global_mean_with_mlp_is_squeeze_and_excitation() -> None:
    ours, theirs, x = build("ge", 20, excite="mlp"), build("se", 20, bias=True), maps(2, 20, 7, 5)
    theirs.load_state_dict({key: p.flatten(1) if p.dim() == 4 else p for key, p in ours.state_dict().items()})
    torch.testing.assert_close(ours(x), theirs(x))


def test_an_excite_of_few_channels_has_a_hidden_one() -> None:
    module = GatherExcite(3, excite="mlp")
    assert module.fc1.weight.shape == (1, 3, 1, 1)


def test_sized_gives_the_size_only_where_it_is_needed() -> None:
    sized = GatherExcite.sized
    assert sized((28, 30), (14, 15), {"gather": "depthwise"}) == {"feature_size": (14, 15)}
    assert sized((28, 30), (14, 15), {"gather": "depthwise", "feature_size": 7}) == {}
    assert sized((28, 30), (14, 15), {"gather": "depthwise", "extent": 2}) == {}
    assert sized((28, 30), (14, 15), {}) == {}


def test_one_map_trains_by_the_running_statistics() -> None:
    module, x = build("ge", 6, gather="depthwise", feature_size=SIZE), maps(1, 6, *SIZE)
    expected = module(x)
    torch.testing.assert_close(module.train()(x), expected)


@pytest.mark.parametrize("options", [MEAN | {"extent": 4}, THETA | {"extent": 4} | MLP], ids=["mean", "depthwise"])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (3, 2), (9, 11)], ids=str)
def test_a_map_of_any_size_trains(options: dict[str, Any], size: tuple[int, int]) -> None:
    module, x = build("ge", 6, **options).train(), maps(1, 6, *size).requires_grad_()
    out = module(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize(
    "options", CASES[:5] + CASES[8:], ids=lambda case: "-".join(map(str, case.values())) or "default"
)
@pytest.mark.parametrize("strict", [False, True], ids=["nonstrict", "strict"])
def test_exports_for_every_size_above_the_extent(options: dict[str, Any], strict: bool) -> None:
    module = build("ge", 6, **options)
    least = options.get("extent", 0) + 1
    batch = torch.export.Dim("batch", min=1, max=64)
    height, width = (torch.export.Dim(axis, min=least, max=64) for axis in ("height", "width"))
    shapes = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(module, (maps(2, 6, 10, 12),), dynamic_shapes=shapes, strict=strict).module()
    for size in [(1, 6, least, least), (3, 6, 13, 9), (2, 6, 16, 17)]:
        torch.testing.assert_close(program(maps(*size)), module(maps(*size)))


@every_case
def test_compiles_into_one_graph_with_the_same_gradient(options: dict[str, Any]) -> None:
    torch.compiler.reset()
    module = build("ge", 6, **options).train()
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
    leaves = [maps(2, 6, *SIZE).requires_grad_() for _ in range(2)]
    outs = [module(leaves[0]), compiled(leaves[1])]
    torch.testing.assert_close(outs[0], outs[1])
    for out in outs:
        out.square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_a_gather_of_the_whole_map_takes_that_size_alone() -> None:
    module = build("ge", 6, gather="depthwise", feature_size=SIZE)
    with pytest.raises(UsageError, match=r"ge was built for maps of \(7, 5\).*got \(8, 5\)"):
        module(maps(2, 6, 8, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (THETA, r"`feature_size` \(=None\) must be the size \(H, W\).*give `extent`"),
        ({"gather": "depthwize"}, r"`gather` \(='depthwize'\) must be one of .*did you mean 'depthwise'"),
        ({"excite": "ml"}, r"`excite` \(='ml'\) must be one of .*did you mean 'mlp'"),
        ({"extent": 1}, r"`extent` \(=1\) must be an integer of at least 2"),
        ({"gather": "depthwise", "extent": 6}, r"`extent` \(=6\) must be a power of two for gather='depthwise'"),
        ({"reduction": 0}, r"`reduction` \(=0\) must be an integer of at least 1"),
        ({"feature_size": 0}, r"`feature_size` \(=0\) must be an integer of at least 1"),
        ({"mlp_relu": None}, r"`mlp_relu` \(=None\) must be True or False"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GatherExcite(8, **options)


def test_no_channels_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"`channels` \(=0\) must be an integer of at least 1"):
        GatherExcite(0)
