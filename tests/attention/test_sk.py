"""Selective kernels against their equations in plain numpy, and the geometry of their branches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from attention.builders import maps, randomise
from saccade.attention.sk import SelectiveKernel2d, select_branches
from saccade.errors import UsageError


def convolve(x: np.ndarray, weight: np.ndarray, stride: int, padding: int, dilation: int) -> np.ndarray:
    """A convolution in groups with zeros around the map, one output value at a time."""
    share, kernel = weight.shape[1], weight.shape[-1]
    per_group = len(weight) * share // len(x)
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    reach = dilation * (kernel - 1) + 1
    rows, columns = ((size - reach) // stride + 1 for size in x.shape[1:])
    out = np.empty((len(weight), rows, columns))
    for o, i, j in np.ndindex(*out.shape):
        first, top, left = o // per_group * share, i * stride, j * stride
        seen = x[first : first + share, top : top + reach : dilation, left : left + reach : dilation]
        out[o, i, j] = (weight[o] * seen).sum()
    return out


def normalise(x: np.ndarray, state: dict[str, np.ndarray], layer: str) -> np.ndarray:
    mean, var, weight, bias = (state[f"{layer}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return ((x.T - mean) / np.sqrt(var + 1e-5) * weight + bias).T


# Options, and of every branch: kernel, padding, dilation, input channels from, to, of 8.
CASES = {
    "paper": ({"branch_groups": 4}, [(3, 1, 1, 0, 8), (3, 2, 2, 0, 8)]),
    "whole kernels": ({"dilated": False, "branch_groups": 2}, [(3, 1, 1, 0, 8), (5, 2, 1, 0, 8)]),
    "author's later code": ({"dilations": (1, 1), "branch_groups": (1, 4)}, [(3, 1, 1, 0, 8), (3, 1, 1, 0, 8)]),
    "split input": ({"split_input": True, "branch_groups": 1}, [(3, 1, 1, 0, 4), (3, 2, 2, 4, 8)]),
    "three branches": ({"dilations": [1, 2, 3]}, [(3, 1, 1, 0, 8), (3, 2, 2, 0, 8), (3, 3, 3, 0, 8)]),
    "strided": ({"stride": 2, "branch_groups": 1}, [(3, 1, 1, 0, 8), (3, 2, 2, 0, 8)]),
    "dilated as a whole": ({"dilation": 2, "padding": 1}, [(3, 1, 2, 0, 8), (3, 3, 4, 0, 8)]),
    "whole kernels dilated": ({"dilation": 2, "dilated": False}, [(3, 2, 2, 0, 8), (5, 4, 2, 0, 8)]),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_papers_equations(case: str) -> None:
    options, branches = CASES[case]
    module = randomise(SelectiveKernel2d(8, 12, 3, min_width=4, **options)).eval().double()
    x = maps(2, 8, 9, 8, dtype=torch.float64)
    state = {key: value.numpy() for key, value in module.state_dict().items()}
    expected = []
    for sample in x.numpy():
        maps_of = []
        for m, (kernel, padding, dilation, first, last) in enumerate(branches):
            weight = state[f"branches.{m}.0.weight"]
            assert weight.shape[-2:] == (kernel, kernel)
            u = convolve(sample[first:last], weight, options.get("stride", 1), padding, dilation)
            maps_of.append(np.maximum(normalise(u, state, f"branches.{m}.1"), 0))
        fused = np.array([plane.sum() / plane.size for plane in np.sum(maps_of, axis=0)])
        z = np.maximum(normalise(state["reduce.weight"] @ fused, state, "norm"), 0)
        powers = np.exp((state["select.weight"] @ z).reshape(len(branches), 12))
        weights = powers / powers.sum(axis=0)
        expected.append(sum(a[:, None, None] * u for a, u in zip(weights, maps_of, strict=True)))
    np.testing.assert_allclose(module(x).detach().numpy(), np.stack(expected), rtol=1e-10, atol=1e-12)


def test_the_weights_of_the_branches_add_up_to_one() -> None:
    logits, branch = 3 * maps(2, 3, 6), maps(2, 6, 5, 4)
    torch.testing.assert_close(select_branches([branch] * 3, logits), branch)
    chosen = torch.full((2, 3, 6), -100.0)
    chosen[:, 1] = 100
    others = maps(2, 6, 5, 4, seed=5)
    assert torch.equal(select_branches([others, branch, others], chosen), branch)


def test_a_channel_chooses_by_the_whole_image_and_not_by_place() -> None:
    module, x = randomise(SelectiveKernel2d(8, 8, 1)).eval(), maps(2, 8, 5, 4)
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    moved = x.flatten(2)[..., shuffled].unflatten(2, (5, 4))
    torch.testing.assert_close(module(moved), module(x).flatten(2)[..., shuffled].unflatten(2, (5, 4)))


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "groups"), [(64, 64, 32), (128, 64, 32), (20, 20, 20), (96, 48, 24), (3, 64, 1)]
)
def test_groups_are_the_largest_legal_number_up_to_32(in_channels: int, out_channels: int, groups: int) -> None:
    module = SelectiveKernel2d(in_channels, out_channels, 3)
    assert [branch[0].groups for branch in module.branches] == [groups] * 2


def test_groups_of_a_split_input_divide_its_shares() -> None:
    assert [branch[0].groups for branch in SelectiveKernel2d(40, 40, 3, split_input=True).branches] == [20, 20]


@pytest.mark.parametrize(("channels", "width"), [(8, 32), (512, 32), (1024, 64)])
def test_the_hidden_width_is_the_quotient_but_at_least_32(channels: int, width: int) -> None:
    module = SelectiveKernel2d(channels, channels, 1)
    assert module.reduce.weight.shape == (width, channels)


def test_the_hidden_width_follows_the_output_channels() -> None:
    assert SelectiveKernel2d(64, 1024, 1).reduce.weight.shape == (64, 1024)


@pytest.mark.parametrize("channels", [64, 1024])
def test_has_the_parameters_of_the_paper(channels: int) -> None:
    width = max(channels // 16, 32)
    branch = channels * (channels // 32) * 9 + 2 * channels
    expected = 2 * branch + channels * width + 2 * width + 2 * channels * width
    assert sum(p.numel() for p in SelectiveKernel2d(channels, channels, 3).parameters()) == expected


@pytest.mark.parametrize("kernel_size", [1, 3, (3, 5), 7])
@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
@pytest.mark.parametrize("dilated", [True, False])
def test_gives_the_size_of_the_convolution_whose_place_it_takes(kernel_size, stride, dilated: bool) -> None:
    for padding in (0, 1):
        conv = nn.Conv2d(4, 6, kernel_size, stride, padding, dilation=(1, 2))
        module = SelectiveKernel2d.from_conv(conv, dilations=(1, 2, 3), dilated=dilated).eval()
        for size in [(13, 14), (16, 15)]:
            x = maps(1, 4, *size)
            assert module(x).shape == conv(x).shape


def test_an_even_kernel_works_where_all_branches_can_have_its_size() -> None:
    conv, x = nn.Conv2d(4, 6, 2, 2), maps(1, 4, 8, 7)
    assert SelectiveKernel2d.from_conv(conv, dilations=(1, 3)).eval()(x).shape == conv(x).shape
    with pytest.raises(UsageError, match=r"`kernel_size` \(=\(2, 2\)\) must be odd for a branch with 2 in `dilations`"):
        SelectiveKernel2d.from_conv(conv)


def test_a_single_image_trains_on_the_running_statistics_of_the_squeezed_channels() -> None:
    module = randomise(SelectiveKernel2d(8, 8, 3)).train()
    before = module.norm.running_mean.clone()
    module(maps(1, 8, 5, 4)).sum().backward()
    assert torch.equal(module.norm.running_mean, before)
    assert module.reduce.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, r"`in_channels` \(=0\) must be an integer of at least 1"),
        ({"out_channels": 0}, r"`out_channels` \(=0\) must be an integer of at least 1"),
        ({"kernel_size": 0}, r"`kernel_size` \(=0\) must be an integer of at least 1"),
        ({"stride": 0}, r"`stride` \(=0\) must be an integer of at least 1"),
        ({"padding": -1}, r"`padding` \(=-1\) must be an integer of at least 0"),
        ({"dilation": 0}, r"`dilation` \(=0\) must be an integer of at least 1"),
        ({"dilations": (1,)}, r"`dilations` \(=\(1,\)\) must be two integers at least, one for each branch"),
        ({"dilations": 2}, r"`dilations` \(=2\) must be two integers at least"),
        ({"dilations": (1, 0)}, r"`dilations` \(=0\) must be an integer of at least 1"),
        ({"branch_groups": 3}, r"`branch_groups` \(=3\) must divide `a branch's in_channels` \(=8\)"),
        ({"out_channels": 6, "branch_groups": 4}, r"`branch_groups` \(=4\) must divide `out_channels` \(=6\)"),
        ({"branch_groups": (1, 2, 4)}, r"`branch_groups` \(=\(1, 2, 4\)\) must be one integer, or one for each of 2"),
        ({"branch_groups": "2"}, r"`branch_groups` \(='2'\) must be an integer of at least 1"),
        ({"in_channels": 9, "split_input": True}, r"`len\(dilations\)` \(=2\) must divide `in_channels` \(=9\)"),
        ({"split_input": 1}, r"`split_input` \(=1\) must be True or False"),
        ({"dilated": None}, r"`dilated` \(=None\) must be True or False"),
        ({"reduction": 0}, r"`reduction` \(=0\) must be an integer of at least 1"),
        ({"min_width": 0}, r"`min_width` \(=0\) must be an integer of at least 1"),
    ],
)
def test_wrong_arguments_are_errors(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SelectiveKernel2d(**({"in_channels": 8, "out_channels": 8, "kernel_size": 3} | arguments))
