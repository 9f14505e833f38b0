"""Global attention against its equations in plain numpy, and the single value that a BatchNorm cannot normalise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attention.builders import build, maps, randomise, sigmoid
from saccade.attention._norm import BatchNorm2d
from saccade.attention.gam import GlobalAttention
from saccade.errors import UsageError


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, border: str) -> np.ndarray:
    """A 7 x 7 convolution, one output value at a time; a filter sees as many channels as it has, those of its group."""
    seen, (_, height, width) = weight.shape[1], x.shape
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3)), mode="edge" if border == "replicate" else "constant")
    out = np.empty((len(weight), height, width))
    for o in range(len(weight)):
        first = o // (len(weight) * seen // len(x)) * seen
        for i in range(height):
            for j in range(width):
                window = padded[first : first + seen, i : i + 7, j : j + 7]
                out[o, i, j] = (weight[o] * window).sum() + bias[o]
    return out


def halve(x: np.ndarray) -> np.ndarray:
    """The largest value of 3 x 3 around every second position."""
    out = np.empty((len(x), (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2))
    for c, i, j in np.ndindex(out.shape):
        out[c, i, j] = x[c, max(0, 2 * i - 1) : 2 * i + 2, max(0, 2 * j - 1) : 2 * j + 2].max()
    return out


def deal(x: np.ndarray, groups: int) -> np.ndarray:
    """The first channel of every group, then the second of every group, and so on."""
    each = len(x) // groups
    return np.stack([x[group * each + i] for i in range(each) for group in range(groups)])


VARIANTS = [
    {},
    {"channel_gate": "sigmoid"},
    {"groups": 4},
    {"groups": 2, "shuffle": 4},
    {"shuffle": 2},
    {"groups": 2, "shuffle": 1},
    {"pool": True},
    {"pool": True, "groups": 2},
    {"padding_mode": "replicate"},
    {"channel": False},
    {"spatial": False},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_papers_equations(options: dict[str, Any]) -> None:
    module = build("gam", 8, reduction=2, **options).double()
    x = maps(2, 8, 5, 4, dtype=torch.float64)
    shuffle = options.get("shuffle", options.get("groups", 1))
    border = options.get("padding_mode", "zeros")
    p = {key: value.numpy() for key, value in module.state_dict().items()}

    def normalise(x: np.ndarray, layer: str) -> np.ndarray:
        mean, var, weight, bias = (
            p[f"spatial.{layer}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    expected = np.empty(x.shape)
    for b, sample in enumerate(x.numpy()):
        channel = np.ones(sample.shape)
        for i, j in np.ndindex(5, 4) if options.get("channel", True) else ():
            hidden = np.maximum(p["fc1.weight"] @ sample[:, i, j] + p["fc1.bias"], 0)
            channel[:, i, j] = p["fc2.weight"] @ hidden + p["fc2.bias"]
        attended = (sigmoid(channel) if "channel_gate" in options else channel) * sample
        if not options.get("spatial", True):
            expected[b] = attended
            continue
        hidden = halve(attended) if "pool" in options else attended
        hidden = convolve(hidden, p["spatial.0.weight"], p["spatial.0.bias"], border)
        hidden = np.maximum(normalise(hidden, "1"), 0)
        spatial = normalise(convolve(hidden, p["spatial.3.weight"], p["spatial.3.bias"], border), "4")
        spatial = deal(sigmoid(spatial), shuffle)
        for c, i, j in np.ndindex(sample.shape):
            # 5 and 4 positions are pooled to 3 and 2.
            row, column = (3 * i // 5, 2 * j // 4) if "pool" in options else (i, j)
            expected[b, c, i, j] = spatial[c, row, column] * attended[c, i, j]
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-11)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_gate_is_the_whole_factor_of_the_input(options: dict[str, Any]) -> None:
    module, x = build("gam", 16, **options), maps(2, 16, 5, 4)
    torch.testing.assert_close(x * module.gate(x), module(x))
    assert module.gate(x).shape == x.shape
    channel = module.channel_map(x)
    assert channel.shape == x.shape
    torch.testing.assert_close(module.gate(x), channel * module.spatial_map(x * channel))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_variant_trains_on_a_single_value_per_channel(options: dict[str, Any]) -> None:
    module = build("gam", 16, **options).train()
    out = module(maps(1, 16, 1, 1))
    out.square().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_variant_exports(options: dict[str, Any]) -> None:
    module = build("gam", 8, reduction=2, **options)
    least = 3 if "pool" in options else 1
    dims = {axis: torch.export.Dim(name, min=least, max=64) for axis, name in ((2, "height"), (3, "width"))}
    dims[0] = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (maps(2, 8, 6, 7),), dynamic_shapes=(dims,), strict=True).module()
    for size in [(3, 8, 9, 5), (1, 8, least, least), (1, 8, least, 16)]:
        torch.testing.assert_close(program(maps(*size)), module(maps(*size)))


@pytest.mark.parametrize(("channels", "reduction"), [(64, 4), (64, 8), (6, 4), (2, 4)])
def test_has_the_parameters_of_the_published_code(channels: int, reduction: int) -> None:
    width = max(1, channels // reduction)
    perceptron = 2 * channels * width + width + channels
    convolutions = 98 * channels * width + width + channels
    norms = 2 * width + 2 * channels
    module = GlobalAttention(channels, reduction=reduction)
    assert sum(p.numel() for p in module.parameters()) == perceptron + convolutions + norms


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_groups_save_parameters(groups: int) -> None:
    module = GlobalAttention(64, groups=groups)
    assert sum(p.numel() for p in module.spatial.parameters()) == 98 * 64 * 16 // groups + 3 * (64 + 16)


def test_a_branch_that_is_off_has_no_parameters() -> None:
    assert {name.partition(".")[0] for name in GlobalAttention(8, channel=False).state_dict()} == {"spatial"}
    assert {name.partition(".")[0] for name in GlobalAttention(8, spatial=False).state_dict()} == {"fc1", "fc2"}


def test_the_spatial_map_is_between_zero_and_one_and_constant_over_pooled_positions() -> None:
    module, x = build("gam", 8, pool=True), maps(2, 8, 8, 6)
    spatial = module.spatial_map(x)
    assert ((spatial > 0) & (spatial < 1)).all()
    for row, column in ((0, 1), (1, 0), (1, 1)):
        assert torch.equal(spatial[:, :, row::2, column::2], spatial[:, :, ::2, ::2])
    assert not torch.equal(spatial[:, :, 2:], spatial[:, :, :-2])


def test_default_has_no_sigmoid_on_the_channel_branch() -> None:
    channel = build("gam", 20).channel_map(maps(2, 20, 5, 4))
    assert channel.min() < 0
    assert channel.max() > 1


def test_an_unknown_channel_gate_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"`channel_gate` \(='sigmod'\) must be one of .*did you mean 'sigmoid'"):
        GlobalAttention(8, channel_gate="sigmod")


def test_a_border_that_is_not_offered_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"`padding_mode` \(='replicat'\) must be .*did you mean 'replicate'"):
        GlobalAttention(8, padding_mode="replicat")


@pytest.mark.parametrize("option", ["groups", "shuffle"])
def test_groups_must_divide_the_channels(option: str) -> None:
    with pytest.raises(UsageError, match=rf"`{option}` \(=3\) must divide `channels` \(=8\)"):
        GlobalAttention(8, **{option: 3})
    with pytest.raises(UsageError, match=rf"`{option}` \(=0\) must be an integer of at least 1"):
        GlobalAttention(8, **{option: 0})


def test_groups_must_divide_the_hidden_width() -> None:
    with pytest.raises(UsageError, match=r"`groups` \(=4\) must divide `hidden width` \(=2\)"):
        GlobalAttention(8, groups=4)


@pytest.mark.parametrize("option", ["channel", "spatial", "pool"])
def test_a_switch_is_true_or_false(option: str) -> None:
    with pytest.raises(UsageError, match=rf"`{option}` \(=1\) must be True or False"):
        GlobalAttention(8, **{option: 1})


def test_one_branch_must_be_on() -> None:
    with pytest.raises(UsageError, match="`channel` and `spatial` are both False"):
        GlobalAttention(8, channel=False, spatial=False)


def test_batch_norm_with_one_value_per_channel_uses_and_keeps_the_running_statistics() -> None:
    # An eps that shows: the single value must be normalised with it, too.
    norm, x = randomise(BatchNorm2d(6, eps=1e-2)).train(), maps(1, 6, 1, 1)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    out = norm(x)
    torch.testing.assert_close(out, norm.eval()(x))
    plain = randomise(nn.BatchNorm2d(6, eps=1e-2)).eval()
    torch.testing.assert_close(out, plain(x))
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("size", [(2, 6, 1, 1), (1, 6, 1, 2), (3, 6, 4, 5)], ids=str)
def test_batch_norm_with_more_values_is_pytorchs(size: tuple[int, ...]) -> None:
    ours, theirs = randomise(BatchNorm2d(6)).train(), randomise(nn.BatchNorm2d(6)).train()
    assert torch.equal(ours(maps(*size)), theirs(maps(*size)))
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
