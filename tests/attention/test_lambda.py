"""The lambda layer against its equations: a lambda for every pixel, applied to every query."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attention.builders import build, maps, randomise
from saccade.attention.lambda_ import LambdaLayer2d
from saccade.errors import UsageError


def by_loops(module: LambdaLayer2d, x: Tensor, *, heads: int, k: int, u: int) -> np.ndarray:
    """With running statistics; embeddings of the offsets that the module holds, others are none."""
    state = {key: value.detach().numpy() for key, value in module.state_dict().items()}
    batch, _, height, width = x.shape
    weight, embeddings = state["qkv.weight"][:, :, 0, 0], state["embeddings"]
    bias = state.get("position_bias", np.zeros(k))
    depth = (len(weight) - heads * k - k * u) // u
    reach = (embeddings.shape[2] // 2, embeddings.shape[3] // 2)
    pixels = list(np.ndindex(height, width))

    def normalised(values: np.ndarray, norm: str) -> np.ndarray:
        mean, var, scale, shift = (
            state[f"{norm}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (values - mean) / np.sqrt(var + 1e-5) * scale + shift

    out = np.empty((batch, heads * depth, height, width))
    for b, sample in enumerate(x.numpy()):
        rows = np.einsum("oc,chw->ohw", weight, sample)
        q = normalised(rows[: heads * k], "norm_q").reshape(heads, k, height, width)
        keys = np.exp(rows[heads * k : heads * k + k * u])
        keys = (keys / keys.sum((1, 2), keepdims=True)).reshape(u, k, height, width)
        v = normalised(rows[heads * k + k * u :], "norm_v").reshape(u, depth, height, width)
        content = np.zeros((k, depth))
        for m in pixels:
            for layer in range(u):
                content += np.outer(keys[layer][:, m[0], m[1]], v[layer][:, m[0], m[1]])
        for n in pixels:
            position = np.zeros((k, depth)) + bias[:, None]
            for m in pixels:
                offset = (m[0] - n[0], m[1] - n[1])
                if abs(offset[0]) <= reach[0] and abs(offset[1]) <= reach[1]:
                    for layer in range(u):
                        embedding = embeddings[:, layer, offset[0] + reach[0], offset[1] + reach[1]]
                        position += np.outer(embedding, v[layer][:, m[0], m[1]])
            for h in range(heads):
                out[b, h * depth : (h + 1) * depth, n[0], n[1]] = (content + position).T @ q[h][:, n[0], n[1]]
    return out


OPTIONS: dict[str, dict[str, Any]] = {
    "local": {"context": 3},
    "bias": {"context": 3, "position_bias": True},
    "wider-than-the-map": {"context": 11},
    "intra-depth": {"context": 3, "intra_depth": 2},
    "whole-map": {"context": None, "feature_size": (5, 4)},
    "whole-map-intra-depth": {"context": None, "feature_size": (5, 4), "intra_depth": 2, "position_bias": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_equals_the_papers_equations(options: dict[str, Any]) -> None:
    module = randomise(LambdaLayer2d(6, 8, heads=2, key_depth=3, **options)).eval().double()
    x = maps(2, 6, 5, 4, dtype=torch.float64)
    expected = by_loops(module, x, heads=2, k=3, u=options.get("intra_depth", 1))
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10, atol=1e-11)


def test_the_default_has_the_papers_sizes() -> None:
    module, x = build("lambda", 8).double(), maps(2, 8, 4, 5, dtype=torch.float64)
    assert module.embeddings.shape == (16, 1, 23, 23)
    expected = by_loops(module, x, heads=4, k=16, u=1)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10, atol=1e-11)


def test_in_train_mode_queries_and_values_have_the_statistics_of_the_batch() -> None:
    module, x = build("lambda", 8, context=3).double(), maps(3, 8, 4, 5, dtype=torch.float64)
    q, _, v = module.qkv(x).split(module.widths, dim=1)
    for norm, part in ((module.norm_q, q), (module.norm_v, v)):
        norm.running_mean.copy_(part.mean((0, 2, 3)).detach())
        norm.running_var.copy_(part.var((0, 2, 3), unbiased=False).detach())
    expected = module(x)
    torch.testing.assert_close(module.train()(x), expected)


@pytest.mark.parametrize(("channels", "heads"), [(1, 1), (2, 2), (3, 3), (5, 1), (6, 3), (8, 4), (512, 4)])
def test_heads_are_the_largest_divisor_up_to_four(channels: int, heads: int) -> None:
    module = LambdaLayer2d(8, channels)
    assert module.heads == heads
    assert module.widths == (heads * 16, 16, channels // heads)


def count(channels: int, **options: Any) -> int:
    return sum(p.numel() for p in LambdaLayer2d(channels, channels, **options).parameters())


def test_number_of_parameters() -> None:
    norms = 2 * (4 * 16) + 2 * 16
    assert count(64) == 64 * (4 * 16 + 16 + 16) + norms + 16 * 23 * 23
    assert count(64, position_bias=True) == count(64) + 16
    assert count(64, context=None, feature_size=(7, 5)) == count(64) + 16 * (13 * 9 - 23 * 23)


def test_has_the_parameters_of_the_papers_resnet_50() -> None:
    """15.0 M (from memory): a ResNet-50 with the layer in the place of all its 3 x 3 convolutions."""
    stages = {64: 3, 128: 4, 256: 6, 512: 3}
    resnet = 25_557_032
    saved = sum(blocks * (9 * width**2 - count(width)) for width, blocks in stages.items())
    assert round((resnet - saved) / 1e6, 1) == 15.0


def test_local_embeddings_start_as_those_of_a_convolution() -> None:
    torch.manual_seed(0)
    embeddings = LambdaLayer2d(8, 8, key_depth=64, intra_depth=2, context=9).embeddings
    bound = (2 * 9 * 9) ** -0.5
    assert embeddings.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert embeddings.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_embeddings_of_the_whole_map_start_as_standard_normal() -> None:
    torch.manual_seed(0)
    module = LambdaLayer2d(8, 8, context=None, feature_size=14, position_bias=True)
    assert module.embeddings.std().item() == pytest.approx(1, rel=0.03)
    assert abs(module.embeddings.mean().item()) < 0.03
    assert not module.position_bias.any()


def test_without_embeddings_the_layer_does_not_see_the_order_of_pixels() -> None:
    module, x = build("lambda", 8), maps(2, 8, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))

    def moved(x: Tensor) -> Tensor:
        return x.flatten(2)[:, :, order].view_as(x)

    assert not torch.allclose(module(moved(x)), moved(module(x)), atol=1e-2)
    with torch.no_grad():
        module.embeddings.zero_()
    torch.testing.assert_close(module(moved(x)), moved(module(x)), rtol=1e-4, atol=1e-5)


def test_a_local_lambda_reaches_as_far_as_its_context_beyond_what_all_pixels_share() -> None:
    """The keys' part sees the whole map; without keys that differ, a pixel of the context counts by its offset."""
    module = build("lambda", 8, context=3)
    x = maps(1, 8, 7, 7)
    changed = x.clone()
    changed[:, :, 0, 0] += 1
    with torch.no_grad():
        apart = module(changed) - module(x)
        # Only the content lambda changes away from the pixel: the same linear function of the query everywhere.
        q = module.norm_q(module.qkv(x)[:, :64]).unflatten(1, (4, 16))
    far = torch.ones(7, 7, dtype=torch.bool)
    far[:2, :2] = False
    queries = q[0].flatten(2).permute(0, 2, 1)[:, far.flatten()].flatten(0, 1)
    answers = apart[0].unflatten(0, (4, 2)).flatten(2).permute(0, 2, 1)[:, far.flatten()].flatten(0, 1)
    solution = torch.linalg.lstsq(queries.double(), answers.double()).solution
    torch.testing.assert_close(queries.double() @ solution, answers.double(), rtol=1e-3, atol=1e-4)
    near = q[0].flatten(2).permute(0, 2, 1)[:, ~far.flatten()].flatten(0, 1).double() @ solution
    nearby = apart[0].unflatten(0, (4, 2)).flatten(2).permute(0, 2, 1)[:, ~far.flatten()].flatten(0, 1).double()
    assert (near - nearby).abs().max() > 0.1


def test_a_context_as_wide_as_all_offsets_is_the_whole_map() -> None:
    whole = build("lambda", 8, context=None, feature_size=4)
    local = LambdaLayer2d(8, 8, context=7).eval()
    local.load_state_dict(whole.state_dict())
    x = maps(2, 8, 4, 4)
    torch.testing.assert_close(whole(x), local(x))


@pytest.mark.parametrize("size", [(3, 4), (5, 2), (1, 1)], ids=str)
def test_a_smaller_map_reads_the_embeddings_in_the_middle(size: tuple[int, int]) -> None:
    module = build("lambda", 8, context=None, feature_size=(5, 4))
    native = LambdaLayer2d(8, 8, context=None, feature_size=size).eval()
    down, right = 5 - size[0], 4 - size[1]
    embeddings = module.embeddings.detach()[:, :, down : 9 - down, right : 7 - right]
    native.load_state_dict(module.state_dict() | {"embeddings": embeddings})
    x = maps(2, 8, *size)
    torch.testing.assert_close(module(x), native(x))


def test_a_larger_map_reads_the_embeddings_by_interpolation() -> None:
    """Twice the offsets: every second one lies halfway between two."""
    module = build("lambda", 8, context=None, feature_size=(3, 2))
    native = LambdaLayer2d(8, 8, context=None, feature_size=(5, 3)).eval()
    embeddings = module.embeddings.detach()
    for axis in (2, 3):
        embeddings = embeddings.movedim(axis, 0)
        longer = torch.empty(2 * len(embeddings) - 1, *embeddings.shape[1:])
        longer[::2] = embeddings
        longer[1::2] = (embeddings[1:] + embeddings[:-1]) / 2
        embeddings = longer.movedim(0, axis)
    native.load_state_dict(module.state_dict() | {"embeddings": embeddings})
    x = maps(2, 8, 5, 3)
    torch.testing.assert_close(module(x), native(x))


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
    module = LambdaLayer2d.from_conv(conv, context=3)
    assert module(maps(2, 6, *size)).shape == conv(maps(2, 6, *size)).shape


def test_a_strided_unpadded_one_works_within_the_centres_and_averages_after() -> None:
    module = randomise(LambdaLayer2d(6, 8, 3, 2, 0)).eval()
    plain = LambdaLayer2d(6, 8, 1).eval()
    plain.load_state_dict(module.state_dict())
    x = maps(2, 6, 9, 8)
    expected = nn.functional.avg_pool2d(plain(x[:, :, 1:-1, 1:-1]), 2, ceil_mode=True)
    torch.testing.assert_close(module(x), expected)


def test_the_size_of_the_embeddings_is_needed_for_the_whole_map_alone() -> None:
    assert LambdaLayer2d.sized((28, 20), (14, 10), {}) == {}
    assert LambdaLayer2d.sized((28, 20), (14, 10), {"context": 5}) == {}
    assert LambdaLayer2d.sized((28, 20), (14, 10), {"context": None}) == {"feature_size": (28, 20)}
    assert LambdaLayer2d.sized((28, 20), (14, 10), {"context": None, "feature_size": 7}) == {}


@pytest.mark.parametrize("options", [{"stride": 3}, {"context": None, "feature_size": 5}], ids=["strided", "whole-map"])
def test_strided_and_whole_map_ones_export_for_other_sizes(options: dict[str, Any]) -> None:
    module = randomise(LambdaLayer2d(6, 8, **options)).eval()
    batch, height, width = (torch.export.Dim(name, min=4, max=64) for name in ("batch", "height", "width"))
    shapes = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(module, (maps(5, 6, 8, 7),), dynamic_shapes=shapes).module()
    for size in [(4, 6, 4, 9), (6, 6, 11, 10)]:
        torch.testing.assert_close(program(maps(*size)), module(maps(*size)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, r"`heads` \(=3\) must divide `out_channels` \(=8\)"),
        ({"heads": 0}, r"`heads` \(=0\) must be an integer of at least 1"),
        ({"key_depth": 0}, r"`key_depth` \(=0\) must be an integer of at least 1"),
        ({"intra_depth": 0}, r"`intra_depth` \(=0\) must be an integer of at least 1"),
        ({"context": 0}, r"`context` \(=0\) must be an integer of at least 1"),
        ({"context": 4}, r"`context` \(=4\) must be odd"),
        ({"context": None}, r"`feature_size` must be given for context=None"),
        ({"context": None, "feature_size": 0}, r"`feature_size` \(=0\) must be an integer of at least 1"),
        ({"feature_size": 7}, r"`feature_size` \(=7\) is for context=None only; leave it out"),
        ({"position_bias": 1}, r"`position_bias` \(=1\) must be True or False"),
        ({"stride": 0}, r"`stride` \(=0\) must be an integer of at least 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LambdaLayer2d(6, 8, **options)


@pytest.mark.parametrize(("sizes", "name"), [((0, 8), "in_channels"), ((6, 0), "out_channels")])
def test_channels_below_one_are_errors(sizes: tuple[int, int], name: str) -> None:
    with pytest.raises(UsageError, match=rf"`{name}` \(=0\) must be an integer of at least 1"):
        LambdaLayer2d(*sizes)
