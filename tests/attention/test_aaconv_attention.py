"""The attention half of an augmented convolution: its tables, heads, sizes, and what training changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attention.builders import maps, randomise
from saccade import AAConv2d
from saccade.ops import relative_attention_2d_weights, resize_relative_table


def layer_of(**options: object) -> AAConv2d:
    return randomise(AAConv2d(6, 16, 3, **{"heads": 4, "dk": 8, "dv": 8, "feature_size": (5, 4)} | options))


def permuted(x: Tensor, order: Tensor) -> Tensor:
    return x.flatten(2)[:, :, order].view_as(x)


def test_tables_are_parameters_of_the_feature_size_from_construction() -> None:
    layer = AAConv2d(6, 16, 3, heads=4, dk=8, dv=8, feature_size=(5, 4))
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters() if "rel_" in name}
    assert shapes == {"attention.rel_h": (2 * 5 - 1, 2), "attention.rel_w": (2 * 4 - 1, 2)}
    keys = set(layer.state_dict())
    layer(maps(1, 6, 9, 8))
    assert set(layer.state_dict()) == keys


def test_tables_start_with_the_variance_of_one_over_the_depth() -> None:
    table = AAConv2d(6, 128, 3, heads=1, dk=64, dv=8, feature_size=200).attention.rel_h
    assert table.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert abs(table.mean().item()) < 0.01


def test_training_changes_the_tables_and_they_change_the_output() -> None:
    layer, x = layer_of(), maps(2, 6, 5, 4)
    tables = [layer.attention.rel_h, layer.attention.rel_w]
    before, out = [table.detach().clone() for table in tables], layer(x).detach()
    optimiser = torch.optim.SGD(tables, lr=0.1)
    layer(x).square().sum().backward()
    optimiser.step()
    for table, old in zip(tables, before, strict=True):
        assert (table - old).abs().min() > 0, "every offset occurs on a map of the feature size, so every row moves"
    assert not torch.allclose(layer(x), out)


def test_the_same_input_gives_the_same_output() -> None:
    layer, x = layer_of().train(), maps(2, 6, 7, 8)
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("size", [(5, 9), (3, 2), (1, 1), (8, 4)], ids=str)
def test_another_map_size_reads_the_tables_by_interpolation(size: tuple[int, int]) -> None:
    layer, x = layer_of(), maps(2, 6, *size)
    native = layer_of(feature_size=size)
    state = layer.state_dict()
    for name, length in (("attention.rel_h", size[0]), ("attention.rel_w", size[1])):
        state[name] = resize_relative_table(state[name], length)
    native.load_state_dict(state)
    torch.testing.assert_close(layer(x), native(x))


def test_feature_size_is_height_then_width() -> None:
    high, wide = layer_of(feature_size=(7, 3)), layer_of(feature_size=(3, 7))
    assert (len(high.attention.rel_h), len(high.attention.rel_w)) == (13, 5)
    wide.load_state_dict(
        high.state_dict()
        | {"attention.rel_h": high.attention.rel_w.detach(), "attention.rel_w": high.attention.rel_h.detach()}
    )
    x = maps(2, 6, 7, 3)
    turned = wide.attention(x.transpose(2, 3)).transpose(2, 3)
    torch.testing.assert_close(high.attention(x), turned)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_without_tables_attention_does_not_see_the_order_of_pixels(kv_heads: int) -> None:
    layer, x = layer_of(relative=False, kv_heads=kv_heads), maps(2, 6, 5, 4)
    assert not [name for name, _ in layer.named_parameters() if "rel_" in name]
    order = torch.randperm(20)
    attention = layer.attention
    torch.testing.assert_close(attention(permuted(x, order)), permuted(attention(x), order))
    with_tables = layer_of(kv_heads=kv_heads).attention
    assert not torch.allclose(with_tables(permuted(x, order)), permuted(with_tables(x), order), atol=1e-3)


def test_without_tables_is_with_tables_of_zeros() -> None:
    layer, x = layer_of(), maps(2, 6, 5, 4)
    plain = layer_of(relative=False)
    with torch.no_grad():
        layer.attention.rel_h.zero_()
        layer.attention.rel_w.zero_()
    plain.load_state_dict({key: value for key, value in layer.state_dict().items() if "rel_" not in key})
    torch.testing.assert_close(plain(x), layer(x))


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "plain"])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_fewer_key_and_value_heads_equal_repeated_ones(kv_heads: int, relative: bool) -> None:
    grouped, x = layer_of(kv_heads=kv_heads, relative=relative), maps(2, 6, 5, 4)
    full = layer_of(relative=relative)
    state = grouped.state_dict()
    for name in ("attention.qkv.weight", "attention.qkv.bias"):
        q, k, v = state[name].split((8, 2 * kv_heads, 2 * kv_heads))
        # Two rows per head; query head n reads key head n // (4 / kv_heads).
        k, v = (
            part.unflatten(0, (kv_heads, 2)).repeat_interleave(4 // kv_heads, dim=0).flatten(0, 1) for part in (k, v)
        )
        state[name] = torch.cat((q, k, v))
    full.load_state_dict(state)
    torch.testing.assert_close(grouped(x), full(x))


def by_loops(layer: AAConv2d, x: Tensor, *, heads: int, kv_heads: int) -> np.ndarray:
    """The attention half, every head of every pixel by itself; the tables, if any, must be those of the map."""
    state = {key: value.detach().numpy() for key, value in layer.attention.named_parameters()}
    d, dv = layer.attention.key_depth, layer.attention.value_depth
    batch, _, height, width = x.shape
    pixels = list(np.ndindex(height, width))
    out = np.empty((batch, heads * dv, height, width))
    for b, sample in enumerate(x.numpy()):
        rows = {p: state["qkv.weight"][:, :, 0, 0] @ sample[:, *p] + state["qkv.bias"] for p in pixels}
        for i in pixels:
            mixed = np.zeros(heads * dv)
            for n in range(heads):
                shared = n * kv_heads // heads
                first_key, first_value = heads * d + shared * d, (heads + kv_heads) * d + shared * dv
                query, powers = rows[i][n * d : n * d + d], []
                for j in pixels:
                    key = rows[j][first_key : first_key + d]
                    if "rel_h" in state:
                        key = key + state["rel_h"][j[0] - i[0] + height - 1] + state["rel_w"][j[1] - i[1] + width - 1]
                    powers.append(np.exp(query @ key / np.sqrt(d)))
                for power, j in zip(powers, pixels, strict=True):
                    mixed[n * dv : n * dv + dv] += power / sum(powers) * rows[j][first_value : first_value + dv]
            out[b, :, *i] = state["proj.weight"][:, :, 0, 0] @ mixed + state["proj.bias"]
    return out


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "plain"])
@pytest.mark.parametrize(("kv_heads", "dk"), [(4, 8), (2, 8), (1, 12)])
def test_grouped_queries_equal_the_equations(kv_heads: int, dk: int, relative: bool) -> None:
    layer = layer_of(kv_heads=kv_heads, dk=dk, relative=relative).double()
    x = maps(2, 6, 5, 4, dtype=torch.float64)
    expected = by_loops(layer, x, heads=4, kv_heads=kv_heads)
    np.testing.assert_allclose(layer.attention(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_with_the_same_content_everywhere_attention_depends_on_offsets_alone() -> None:
    """Two keys compare the same from every pixel from which they lie in the same directions: in a layer as it is."""
    layer = layer_of(heads=1, dk=4, dv=8).double()
    attention = layer.attention
    pixel = maps(1, 6, 1, 1, dtype=torch.float64)
    q, k, _ = attention._split(attention.qkv(pixel.expand(1, 6, 5, 4)))
    weights = relative_attention_2d_weights(q, k, attention.rel_h, attention.rel_w)
    log = weights.log().view(5, 4, 5, 4)
    here, moved = log[:-1, :-1, :-1, :-1], log[1:, 1:, 1:, 1:]
    torch.testing.assert_close(here - here[..., :1, :1], moved - moved[..., :1, :1])
    assert (here - here[..., :1, :1]).abs().max() > 0.1


@pytest.mark.parametrize("size", [(10, 8), (9, 7), (1, 3)], ids=str)
@pytest.mark.parametrize(("every", "reach"), [(2, 1), (3, 1), (4, 2)])
def test_downsampling_attends_on_the_averages_and_spreads_the_result(
    every: int, reach: int, size: tuple[int, int]
) -> None:
    """Averages over the pixels within ``reach`` of every ``every``-th one, those outside the map not counted."""
    layer, x = layer_of(downsample=every), maps(2, 6, *size)
    rows = [x[:, :, max(0, i - reach) : i + reach + 1] for i in range(0, size[0], every)]
    pooled = torch.stack(
        [
            torch.stack(
                [row[..., max(0, j - reach) : j + reach + 1].mean((2, 3)) for j in range(0, size[1], every)], -1
            )
            for row in rows
        ],
        dim=-2,
    )
    plain = layer_of()
    plain.load_state_dict(layer.state_dict())
    expected = F.interpolate(plain.attention(pooled), size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer.attention(x), expected)
    assert layer(x).shape == (2, 16, *size)


@pytest.mark.skipif(
    torch.__version__ < "2.12",  # a TorchVersion, which compares as versions do
    reason="export in torch 2.11 wants sizes that two strides divide evenly; in 2.15 it does not",
)
def test_a_downsampled_strided_layer_exports_for_other_sizes() -> None:
    layer = layer_of(downsample=2, stride=2).eval()
    batch, height, width = (torch.export.Dim(name, min=5, max=64) for name in ("batch", "height", "width"))
    program = torch.export.export(
        layer, (maps(6, 6, 8, 10),), dynamic_shapes=({0: batch, 2: height, 3: width},)
    ).module()
    for size in [(5, 6, 5, 9), (7, 6, 16, 11)]:
        torch.testing.assert_close(program(maps(*size)), layer(maps(*size)))


def test_heads_are_concatenated_in_order_before_the_last_layer() -> None:
    """Head n's values come out in channels n dv/N and following: the order that some implementations mix up."""
    layer, x = layer_of(), maps(1, 6, 5, 4)
    attention = layer.attention
    with torch.no_grad():
        attention.proj.weight.copy_(torch.eye(8)[:, :, None, None])
        attention.proj.bias.zero_()
        q, k, v = attention.qkv(x).split(8, dim=1)
        out = attention(x)
        for n in range(4):
            heads = [part[:, 2 * n : 2 * n + 2].permute(0, 2, 3, 1)[:, None] for part in (q, k)]
            weights = relative_attention_2d_weights(*heads, attention.rel_h, attention.rel_w)[0, 0]
            expected = (weights @ v[0, 2 * n : 2 * n + 2].flatten(1).T).T
            torch.testing.assert_close(out[0, 2 * n : 2 * n + 2].flatten(1), expected)
