"""Bottleneck-transformer attention against its equations, one pixel after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attention.builders import build, maps, randomise
from saccade.attention._sampling import strided_average
from saccade.attention.bot import BoTAttention2d, resize_positions
from saccade.errors import UsageError


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def by_loops(module: BoTAttention2d, x: Tensor, *, heads: int, kv_heads: int, scaled: bool) -> np.ndarray:
    """Every head of every pixel by itself; the tables must be those of the map."""
    state = {key: value.detach().numpy() for key, value in module.named_parameters()}
    batch, _, height, width = x.shape
    d, dv = module.key_depth, module.value_depth
    weight = state["qkv.weight"][:, :, 0, 0]
    pixels = list(np.ndindex(height, width))
    out = np.empty((batch, heads * dv, height, width))
    for b, sample in enumerate(x.numpy()):
        rows = {p: weight @ sample[:, p[0], p[1]] for p in pixels}
        for n in range(heads):
            group = n // (heads // kv_heads)
            first_key, first_value = heads * d + group * d, (heads + kv_heads) * d + group * dv
            key = {p: rows[p][first_key : first_key + d] for p in pixels}
            value = {p: rows[p][first_value : first_value + dv] for p in pixels}
            for i in pixels:
                query = rows[i][n * d : n * d + d]
                logits = []
                for j in pixels:
                    place = np.zeros(d)
                    if "rel_h" in state:
                        place = state["rel_h"][j[0] - i[0] + height - 1] + state["rel_w"][j[1] - i[1] + width - 1]
                    if "pos_h" in state:
                        place = state["pos_h"][j[0]] + state["pos_w"][j[1]]
                    position = query @ place
                    logits.append(query @ key[j] / np.sqrt(d) + (position / np.sqrt(d) if scaled else position))
                weights = softmax(np.array(logits))
                out[b, n * dv : n * dv + dv, i[0], i[1]] = sum(
                    w * value[j] for w, j in zip(weights, pixels, strict=True)
                )
    return out


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "unscaled"])
@pytest.mark.parametrize("positions", ["relative", "absolute", "none"])
@pytest.mark.parametrize(("heads", "kv_heads", "key_depth"), [(4, 4, None), (4, 2, None), (4, 1, 5), (2, 2, 3)])
def test_equals_the_papers_equations(
    heads: int, kv_heads: int, key_depth: int | None, positions: str, scaled: bool
) -> None:
    options = {"heads": heads, "kv_heads": kv_heads, "key_depth": key_depth, "positions": positions}
    module = BoTAttention2d(6, 8, feature_size=(4, 3), scale_positions=scaled, **options)
    module = randomise(module).double()
    x = maps(2, 6, 4, 3, dtype=torch.float64)
    expected = by_loops(module, x, heads=heads, kv_heads=kv_heads, scaled=scaled)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_the_default_has_scaled_relative_positions() -> None:
    module = build("bot", 8, feature_size=(4, 3)).double()
    x = maps(2, 8, 4, 3, dtype=torch.float64)
    expected = by_loops(module, x, heads=4, kv_heads=4, scaled=True)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("channels", "heads"), [(1, 1), (2, 2), (3, 3), (5, 1), (6, 3), (8, 4), (20, 4), (512, 4)])
def test_heads_are_the_largest_divisor_up_to_four(channels: int, heads: int) -> None:
    module = BoTAttention2d(8, channels)
    assert (module.heads, module.key_depth) == (heads, channels // heads)


def test_has_the_parameters_of_the_paper() -> None:
    """In the last stage at 224 x 224: three times C^2, and two tables of 2 * 14 - 1 offsets of 128 dimensions."""
    count = sum(p.numel() for p in BoTAttention2d(512, 512).parameters())
    assert count == 3 * 512**2 + 2 * 27 * 128


@pytest.mark.parametrize(
    ("positions", "shapes"),
    [
        ("relative", {"rel_h": (9, 2), "rel_w": (7, 2)}),
        ("absolute", {"pos_h": (5, 2), "pos_w": (4, 2)}),
        ("none", {}),
    ],
)
def test_tables_are_those_of_the_positions_and_of_the_size(positions: str, shapes: dict[str, Any]) -> None:
    module = BoTAttention2d(6, 8, positions=positions, feature_size=(5, 4))
    assert {key: tuple(p.shape) for key, p in module.named_parameters() if key != "qkv.weight"} == shapes


@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_tables_start_with_the_variance_of_one_over_the_depth(positions: str) -> None:
    torch.manual_seed(0)
    module = BoTAttention2d(6, 256, positions=positions, feature_size=200)
    tables = [p for key, p in module.named_parameters() if key != "qkv.weight"]
    for table in tables:
        assert table.std().item() == pytest.approx(64**-0.5, rel=0.05)
        assert abs(table.mean().item()) < 0.01


def test_without_positions_attention_does_not_see_the_order_of_pixels() -> None:
    x = maps(2, 8, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))

    def moved(x: Tensor) -> Tensor:
        return x.flatten(2)[:, :, order].view_as(x)

    plain = build("bot", 8, positions="none", feature_size=(5, 4))
    torch.testing.assert_close(plain(moved(x)), moved(plain(x)))
    for positions in ("relative", "absolute"):
        module = build("bot", 8, positions=positions, feature_size=(5, 4))
        assert not torch.allclose(module(moved(x)), moved(module(x)), atol=1e-2)


def test_values_are_averaged_with_weights_that_sum_to_one() -> None:
    """On a map of the same pixel everywhere, every average of the values is that pixel's value."""
    module = build("bot", 8)
    x = maps(2, 8, 1, 1).expand(2, 8, 6, 5)
    torch.testing.assert_close(module(x), module.qkv(x)[:, 16:])


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_absolute_positions_of_another_length_are_interpolated(size: int) -> None:
    table = maps(5, 3, dtype=torch.float64)
    expected = []
    for i in range(size):
        place = i * 4 / max(size - 1, 1)
        low = min(int(place), 3)
        expected.append(table[low] * (low + 1 - place) + table[low + 1] * (place - low))
    # Places are computed in float32.
    torch.testing.assert_close(resize_positions(table, size), torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_absolute_positions_of_the_same_length_are_exactly_the_table() -> None:
    for size in (1, 2, 7, 14, 49):
        table = maps(size, 3)
        assert torch.equal(resize_positions(table, size), table)


@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_feature_size_is_height_then_width(positions: str) -> None:
    high = build("bot", 8, positions=positions, feature_size=(5, 3))
    wide = build("bot", 8, positions=positions, feature_size=(3, 5))
    state = dict(high.state_dict())
    first, second = [key for key in state if key != "qkv.weight"]
    state[first], state[second] = state[second], state[first]
    wide.load_state_dict(state)
    x = maps(2, 8, 5, 3)
    torch.testing.assert_close(wide(x.transpose(2, 3)).transpose(2, 3), high(x))


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (1, 1), (2, 1)], ids=str)
@pytest.mark.parametrize("stride", [(2, 2), (3, 3), (1, 2), (3, 2)], ids=str)
def test_a_stride_averages_the_pixels_that_exist(stride: tuple[int, int], size: tuple[int, int]) -> None:
    x = maps(2, 3, *size)
    rows = range(0, size[0], stride[0])
    columns = range(0, size[1], stride[1])
    expected = torch.stack(
        [
            torch.stack([x[:, :, i : i + stride[0], j : j + stride[1]].mean((2, 3)) for j in columns], dim=-1)
            for i in rows
        ],
        dim=-2,
    )
    torch.testing.assert_close(strided_average(x, stride), expected)


GEOMETRIES: dict[str, dict[str, Any]] = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "unpadded": {"kernel_size": (3, 5), "stride": (2, 3)},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 1},
    "1x1-stride2": {"kernel_size": 1, "stride": 2, "bias": False},
    "4x4": {"kernel_size": 4, "padding": 1, "stride": 2},
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("size", [(9, 8), (8, 11)], ids=str)
def test_has_the_size_of_the_convolution_whose_place_it_takes(geometry: dict[str, Any], size: tuple[int, int]) -> None:
    conv = nn.Conv2d(6, 8, **geometry)
    module = BoTAttention2d.from_conv(conv, feature_size=(5, 4))
    assert module(maps(2, 6, *size)).shape == conv(maps(2, 6, *size)).shape


def test_a_strided_unpadded_one_attends_within_the_centres_and_averages_after() -> None:
    module = randomise(BoTAttention2d(6, 8, 3, 2, 0, feature_size=(7, 6)))
    plain = BoTAttention2d(6, 8, 1, feature_size=(7, 6))
    plain.load_state_dict(module.state_dict())
    x = maps(2, 6, 9, 8)
    expected = nn.functional.avg_pool2d(plain(x[:, :, 1:-1, 1:-1]), 2, ceil_mode=True)
    torch.testing.assert_close(module(x), expected)


def test_the_size_of_the_tables_is_that_before_the_stride() -> None:
    assert BoTAttention2d.sized((28, 20), (14, 10), {}) == {"feature_size": (28, 20)}
    assert BoTAttention2d.sized((28, 20), (14, 10), {"feature_size": 7}) == {}


@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_a_strided_one_exports_for_other_sizes(positions: str) -> None:
    module = randomise(BoTAttention2d(6, 8, 3, 2, positions=positions, feature_size=6)).eval()
    batch, height, width = (torch.export.Dim(name, min=3, max=64) for name in ("batch", "height", "width"))
    shapes = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(module, (maps(4, 6, 8, 7),), dynamic_shapes=shapes).module()
    for size in [(3, 6, 5, 9), (5, 6, 16, 11)]:
        torch.testing.assert_close(program(maps(*size)), module(maps(*size)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, r"`heads` \(=3\) must divide `out_channels` \(=8\)"),
        ({"heads": 0}, r"`heads` \(=0\) must be an integer of at least 1"),
        ({"heads": 4, "kv_heads": 3}, r"`kv_heads` \(=3\) must divide `heads` \(=4\)"),
        ({"kv_heads": 0}, r"`kv_heads` \(=0\) must be an integer of at least 1"),
        ({"key_depth": 0}, r"`key_depth` \(=0\) must be an integer of at least 1"),
        ({"positions": "relativ"}, r"`positions` \(='relativ'\) must be one of .*did you mean 'relative'"),
        ({"scale_positions": 1}, r"`scale_positions` \(=1\) must be True or False"),
        ({"feature_size": 0}, r"`feature_size` \(=0\) must be an integer of at least 1"),
        ({"stride": 0}, r"`stride` \(=0\) must be an integer of at least 1"),
        ({"backend": "fast"}, r"`backend` \(='fast'\) must be one of"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BoTAttention2d(6, 8, **options)


@pytest.mark.parametrize(("sizes", "name"), [((0, 8), "in_channels"), ((6, 0), "out_channels")])
def test_channels_below_one_are_errors(sizes: tuple[int, int], name: str) -> None:
    with pytest.raises(UsageError, match=rf"`{name}` \(=0\) must be an integer of at least 1"):
        BoTAttention2d(*sizes)
