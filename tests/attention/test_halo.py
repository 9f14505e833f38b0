"""Halo attention against its equations, one pixel after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attention.builders import build, maps, randomise
from saccade.attention.bot import BoTAttention2d
from saccade.attention.halo import HaloAttention2d
from saccade.errors import UsageError


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def by_loops(
    module: HaloAttention2d,
    x: Tensor,
    *,
    block: int,
    halo: int,
    heads: int,
    stride: tuple[int, int] = (1, 1),
    mask: bool = True,
    scaled: bool = True,
) -> np.ndarray:
    """Every query by itself: which block it is in, which pixels that block's window has, and how far they are."""
    state = {key: value.detach().numpy() for key, value in module.named_parameters()}
    w_q, w_kv = state["q.weight"][:, :, 0, 0], state["kv.weight"][:, :, 0, 0]
    d = len(w_q) // heads
    dv = len(w_kv) // heads - d
    batch, _, height, width = x.shape
    asking = [(i, j) for i in range(0, height, stride[0]) for j in range(0, width, stride[1])]
    out = np.empty((batch, heads * dv, -(-height // stride[0]), -(-width // stride[1])))
    # The table's middle row is not that of the query's own pixel: rows are counted from the window's corner.
    middle = block + 3 * halo - 1
    for b, sample in enumerate(x.numpy()):
        for n in range(heads):
            rows_q = w_q[n * d : n * d + d]
            rows_k = w_kv[n * d : n * d + d]
            rows_v = w_kv[heads * d + n * dv : heads * d + n * dv + dv]
            for i, j in asking:
                query = rows_q @ sample[:, i, j]
                top, left = i // block * block - halo, j // block * block - halo
                logits, values = [], []
                for y in range(top, top + block + 2 * halo):
                    for z in range(left, left + block + 2 * halo):
                        on_map = 0 <= y < height and 0 <= z < width
                        if mask and not on_map:
                            continue
                        pixel = sample[:, y, z] if on_map else np.zeros(len(sample))
                        position = query @ (state["rel_h"][y - i + middle] + state["rel_w"][z - j + middle])
                        content = query @ (rows_k @ pixel) / np.sqrt(d)
                        logits.append(content + (position / np.sqrt(d) if scaled else position))
                        values.append(rows_v @ pixel)
                weights = softmax(np.array(logits))
                out[b, n * dv : n * dv + dv, i // stride[0], j // stride[1]] = weights @ np.array(values)
    if "proj.weight" in state:
        weight = state["proj.weight"][:, :, 0, 0]
        out = np.einsum("oc,bchw->bohw", weight, out) + state["proj.bias"][:, None, None]
    return out


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "unmasked": {"mask": False},
    "unscaled": {"scale_positions": False},
    "timm": {"mask": False, "scale_positions": False, "key_depth": 3},
    "no-halo": {"halo_size": 0},
    "halo-beyond-a-block": {"block_size": 2, "halo_size": 5},
    "single-pixels": {"block_size": 1, "halo_size": 2},
    "projected": {"proj": True, "value_depth": 3, "key_depth": 5},
    "stride2": {"stride": 2},
    "stride1x4": {"stride": (1, 4), "mask": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("size", [(8, 4), (7, 6), (3, 9), (1, 1)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_equals_the_papers_equations(options: dict[str, Any], size: tuple[int, int]) -> None:
    options = {"block_size": 4, "halo_size": 1, "heads": 2} | options
    module = randomise(HaloAttention2d(6, 8, **options)).double()
    x = maps(2, 6, *size, dtype=torch.float64)
    stride = options.get("stride", 1)
    expected = by_loops(
        module,
        x,
        block=options["block_size"],
        halo=options["halo_size"],
        heads=2,
        stride=stride if isinstance(stride, tuple) else (stride, stride),
        mask=options.get("mask", True),
        scaled=options.get("scale_positions", True),
    )
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_the_default_has_blocks_of_8_with_a_halo_of_3_and_one_head() -> None:
    module, x = build("halo", 8).double(), maps(1, 8, 9, 10, dtype=torch.float64)
    expected = by_loops(module, x, block=8, halo=3, heads=1)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "heads"), [(1, 1), (8, 1), (20, 1), (64, 4), (96, 6), (100, 5), (34, 2), (512, 32)]
)
def test_heads_are_of_depth_16_where_that_divides(channels: int, heads: int) -> None:
    module = HaloAttention2d(8, channels)
    assert (module.heads, module.key_depth, module.value_depth) == (heads, channels // heads, channels // heads)


@pytest.mark.parametrize(("channels", "block", "halo"), [(64, 8, 3), (32, 4, 1)])
def test_number_of_parameters(channels: int, block: int, halo: int) -> None:
    tables = 2 * (2 * (block + 2 * halo) - 1) * 16
    for proj, more in ((False, 0), (True, channels * channels + channels)):
        module = HaloAttention2d(channels, channels, block_size=block, halo_size=halo, proj=proj)
        assert sum(p.numel() for p in module.parameters()) == 3 * channels**2 + tables + more


def test_tables_start_with_the_variance_of_one_over_the_depth() -> None:
    torch.manual_seed(0)
    module = HaloAttention2d(6, 64, heads=1, block_size=100)
    for table in (module.rel_h, module.rel_w):
        assert table.std().item() == pytest.approx(64**-0.5, rel=0.05)
        assert abs(table.mean().item()) < 0.01


@pytest.mark.parametrize("halo", [0, 1, 3])
def test_rows_of_the_tables_that_are_never_read(halo: int) -> None:
    """2h of the 2 (b + 2h) - 1, the first ones."""
    module = randomise(HaloAttention2d(6, 8, block_size=4, halo_size=halo))
    module(maps(2, 6, 12, 12)).square().sum().backward()
    for table in (module.rel_h, module.rel_w):
        read = table.grad.abs().amax(1) > 0
        assert read.tolist() == [False] * (2 * halo) + [True] * (len(table) - 2 * halo)


def test_a_pixel_is_seen_from_its_block_and_the_blocks_within_the_halo() -> None:
    module = build("halo", 8, block_size=4, halo_size=1)
    x = maps(1, 8, 12, 12).requires_grad_()
    module(x)[0, :, 5, 6].square().sum().backward()
    seen = x.grad[0].abs().amax(0) > 0
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[3:9, 3:9] = True
    assert torch.equal(seen, expected)


def test_with_a_mask_values_are_averaged_over_the_map_alone() -> None:
    """On a map of the same pixel everywhere, every average of the values is that pixel's value."""
    x = maps(2, 8, 1, 1).expand(2, 8, 10, 5)
    module = build("halo", 8, block_size=4)
    values = module.kv(x)[:, 8:]
    torch.testing.assert_close(module(x), values)
    unmasked = build("halo", 8, block_size=4, mask=False)
    unmasked.load_state_dict(module.state_dict())
    ratio = unmasked(x) / values
    assert ratio.max() < 1
    assert ratio.min() > 0


def test_a_block_as_large_as_the_map_is_attention_over_the_whole_map() -> None:
    module = randomise(HaloAttention2d(6, 8, heads=2, block_size=5, halo_size=0))
    whole = BoTAttention2d(6, 8, heads=2, feature_size=5)
    state = module.state_dict()
    weight = torch.cat((state["q.weight"], state["kv.weight"]))
    whole.load_state_dict({"qkv.weight": weight, "rel_h": state["rel_h"], "rel_w": state["rel_w"]})
    x = maps(2, 6, 5, 5)
    torch.testing.assert_close(module(x), whole(x))


GEOMETRIES: dict[str, dict[str, Any]] = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "unpadded": {"kernel_size": (3, 5), "stride": (2, 4)},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 1},
    "1x1-stride2": {"kernel_size": 1, "stride": 2, "bias": False},
    "4x4": {"kernel_size": 4, "padding": 1, "stride": 2},
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("size", [(9, 8), (8, 11)], ids=str)
def test_has_the_size_of_the_convolution_whose_place_it_takes(geometry: dict[str, Any], size: tuple[int, int]) -> None:
    conv = nn.Conv2d(6, 8, **geometry)
    module = HaloAttention2d.from_conv(conv, block_size=4, halo_size=1)
    assert module(maps(2, 6, *size)).shape == conv(maps(2, 6, *size)).shape


def test_a_strided_unpadded_one_asks_from_the_centres() -> None:
    module = randomise(HaloAttention2d(6, 8, 3, 2, 0, block_size=4))
    plain = HaloAttention2d(6, 8, 1, block_size=4)
    plain.load_state_dict(module.state_dict())
    x = maps(2, 6, 9, 8)
    torch.testing.assert_close(module(x), plain(x[:, :, 1:-1, 1:-1])[:, :, ::2, ::2])


def test_a_strided_one_exports_for_other_sizes() -> None:
    module = randomise(HaloAttention2d(6, 8, 3, 2, block_size=4, halo_size=5)).eval()
    batch, height, width = (torch.export.Dim(name, min=3, max=64) for name in ("batch", "height", "width"))
    shapes = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(module, (maps(4, 6, 8, 7),), dynamic_shapes=shapes).module()
    for size in [(3, 6, 3, 9), (5, 6, 16, 11)]:
        torch.testing.assert_close(program(maps(*size)), module(maps(*size)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, r"`heads` \(=3\) must divide `out_channels` \(=8\)"),
        ({"heads": 0}, r"`heads` \(=0\) must be an integer of at least 1"),
        ({"key_depth": 0}, r"`key_depth` \(=0\) must be an integer of at least 1"),
        ({"value_depth": 0}, r"`value_depth` \(=0\) must be an integer of at least 1"),
        ({"heads": 2, "value_depth": 3}, r"`value_depth` \(=3\) must be out_channels / heads .*or give proj=True"),
        ({"block_size": 0}, r"`block_size` \(=0\) must be an integer of at least 1"),
        ({"halo_size": -1}, r"`halo_size` \(=-1\) must be an integer of at least 0"),
        ({"mask": 1}, r"`mask` \(=1\) must be True or False"),
        ({"scale_positions": "no"}, r"`scale_positions` \(='no'\) must be True or False"),
        ({"proj": None}, r"`proj` \(=None\) must be True or False"),
        ({"stride": 3}, r"`stride` \(=3\) must divide `block_size` \(=8\)"),
        ({"stride": (2, 3)}, r"`stride` \(=3\) must divide `block_size` \(=8\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HaloAttention2d(6, 8, **options)


@pytest.mark.parametrize(("sizes", "name"), [((0, 8), "in_channels"), ((6, 0), "out_channels")])
def test_channels_below_one_are_errors(sizes: tuple[int, int], name: str) -> None:
    with pytest.raises(UsageError, match=rf"`{name}` \(=0\) must be an integer of at least 1"):
        HaloAttention2d(*sizes)
