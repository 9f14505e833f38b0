"""How deep an augmented convolution's keys and values are: the paper's networks, and small channel counts."""

from __future__ import annotations

import pytest
import torch
import torchvision

import saccade
from attention.builders import maps, randomise
from saccade import AAConv2d
from saccade.attention.aaconv import attention_depths
from saccade.errors import UsageError


def depths(layer: AAConv2d) -> tuple[int, int, int]:
    """heads, d_k and d_v as a layer has them."""
    attention = layer.attention
    return attention.heads, attention.heads * attention.key_depth, attention.heads * attention.value_depth


@pytest.mark.parametrize(
    ("out_channels", "kappa", "upsilon", "expected"),
    [
        # ResNet-50's stages 2 to 4: keys at the minimum of 20 dimensions for each of 8 heads, values rounded down.
        (128, 0.2, 0.1, (8, 160, 8)),
        (256, 0.2, 0.1, (8, 160, 24)),
        (512, 0.2, 0.1, (8, 160, 48)),
        (128, 0.25, 0.25, (8, 160, 32)),
        (512, 0.5, 0.5, (8, 256, 256)),
        (512, 1.0, 1.0, (8, 512, 512)),
        # WideResNet-28-10.
        (160, 0.2, 0.1, (8, 160, 16)),
        (640, 0.2, 0.1, (8, 160, 64)),
    ],
)
def test_the_papers_networks(out_channels: int, kappa: float, upsilon: float, expected: tuple[int, int, int]) -> None:
    assert attention_depths(out_channels, 8, kappa, upsilon, 20) == expected
    assert depths(AAConv2d(8, out_channels, 3, kappa=kappa, upsilon=upsilon)) == expected


@pytest.mark.parametrize(
    ("out_channels", "expected"),
    [
        (100, (8, 96, 8)),
        (96, (8, 96, 8)),
        (64, (8, 64, 8)),
        (20, (4, 20, 4)),
        (8, (2, 8, 2)),
        (3, (1, 3, 1)),
        (1, (1, 1, 1)),
    ],
)
def test_small_layers_have_fewer_heads_and_shallower_keys(out_channels: int, expected: tuple[int, int, int]) -> None:
    layer = AAConv2d(4, out_channels, 3)
    assert depths(layer) == expected
    assert layer(maps(2, 4, 5, 3)).shape == (2, out_channels, 5, 3)


def test_heads_are_lowered_to_a_divisor_of_what_was_asked() -> None:
    assert attention_depths(20, 6, 0.2, 0.1, 20)[0] == 3
    assert attention_depths(20, 7, 0.2, 0.1, 20)[0] == 1
    assert attention_depths(64, 6, 0.2, 0.1, 20)[0] == 6


def test_ratios_are_not_lost_to_rounding() -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point, and is meant as 29.
    assert attention_depths(100, 1, 0.29, 0.29, 1) == (1, 29, 29)


def test_the_callers_own_depths_are_taken_as_they_are() -> None:
    assert depths(AAConv2d(4, 16, 3, heads=8, dk=8, dv=8)) == (8, 8, 8)
    assert depths(AAConv2d(4, 64, 3, heads=4, dv=4)) == (4, 64, 4)


def test_values_may_be_as_wide_as_the_output_and_no_wider() -> None:
    assert AAConv2d(4, 16, 3, heads=8, dk=8, dv=16).conv is None
    with pytest.raises(UsageError, match=r"`dv` \(=24\) must be at most `out_channels` \(=16\)"):
        AAConv2d(4, 16, 3, heads=8, dk=8, dv=24)


def test_upsilon_one_is_attention_without_a_convolution() -> None:
    layer = randomise(AAConv2d(6, 32, 3, stride=2, upsilon=1.0, bias=False, feature_size=(3, 2)))
    assert layer.conv is None
    x = maps(2, 6, 6, 4)
    assert layer(x).shape == (2, 32, 3, 2)
    assert torch.equal(layer(x), layer.attention(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dk": 12}, r"`heads` \(=8\) must divide `dk` \(=12\)"),
        ({"dv": 9}, r"`heads` \(=8\) must divide `dv` \(=9\)"),
        ({"dk": 0}, r"`dk` \(=0\) must be an integer of at least 1"),
        ({"heads": 0}, r"`heads` \(=0\) must be an integer of at least 1"),
        ({"kv_heads": 3}, r"`kv_heads` \(=3\) must divide `heads` \(=8\)"),
        ({"kappa": float("inf")}, r"`kappa` \(=inf\) must be a number of at least 0, and finite"),
        ({"kappa": -0.1}, r"`kappa` \(=-0.1\) must be a number of at least 0, and finite"),
        ({"upsilon": 1.1}, r"`upsilon` \(=1.1\) must be a number from 0 to 1"),
        ({"min_key_dim": 0}, r"`min_key_dim` \(=0\) must be an integer of at least 1"),
        ({"downsample": 0}, r"`downsample` \(=0\) must be an integer of at least 1"),
        ({"feature_size": (7, 5, 3)}, r"`feature_size` \(=\(7, 5, 3\)\) must be one integer or two"),
        ({"feature_size": 0}, r"`feature_size` \(=0\) must be an integer of at least 1"),
        ({"dilation": 0}, r"`dilation` \(=0\) must be an integer of at least 1"),
        ({"groups": 3}, r"`groups` \(=3\) must divide `in_channels` \(=64\)"),
        ({"groups": 16}, r"`groups` \(=16\) must divide `out_channels - dv` \(=56\)"),
        ({"backend": "cuda"}, r"`backend` \(='cuda'\) must be one of 'auto', 'reference'"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_options_out_of_range_are_errors_at_construction(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AAConv2d(64, 64, 3, **options)


@pytest.mark.parametrize(
    ("kappa", "upsilon", "millions"),
    [(0.2, 0.1, 25.809), (0.25, 0.25, 24.304), (0.5, 0.5, 22.343), (0.75, 0.75, 20.735), (1.0, 1.0, 19.384)],
    ids=["table-3", "quarter", "half", "three-quarters", "fully-attentional"],
)
def test_aa_resnet50_has_the_papers_number_of_parameters(kappa: float, upsilon: float, millions: float) -> None:
    """The 3 x 3 convolutions of the last three stages; the first of them, 28 x 28, attends at 14 x 14."""
    with torch.device("meta"):
        model = torchvision.models.resnet50()
    options = {"kappa": kappa, "upsilon": upsilon}
    saccade.augment(
        model, "aaconv", at="layer2.*.conv2", options=options | {"downsample": 2}, start="paper", inplace=True
    )
    saccade.augment(
        model, "aaconv", at=["layer3.*.conv2", "layer4.*.conv2"], options=options, start="paper", inplace=True
    )
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)
    sizes = [tuple(model.get_submodule(f"layer{n}.0.conv2").attention.rel_h.shape) for n in (2, 3, 4)]
    assert [rows for rows, _ in sizes] == [2 * 14 - 1, 2 * 14 - 1, 2 * 7 - 1]
