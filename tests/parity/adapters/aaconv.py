"""Attention-augmented convolution: the brute-force oracle, and a popular implementation that scrambles its output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from parity.adapted import Adapted, Fault
from saccade.attention._sampling import Sampling
from saccade.attention.aaconv import AAConv2d


def of_oracle(
    *,
    cin: int,
    cout: int,
    k: int,
    dk: int,
    dv: int,
    Nh: int,  # noqa: N803  the file's own key
    hw: list[int],
    relative: bool = True,
    stride: int = 1,
) -> Adapted:
    module = AAConv2d(cin, cout, k, stride, dk=dk, dv=dv, heads=Nh, relative=relative, feature_size=(hw[0], hw[1]))
    return Adapted(module, _names(module, "qkv"))


def of_leaderj1001(
    *,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    dk: int,
    dv: int,
    Nh: int,  # noqa: N803  the file's own key
    shape: int = 0,
    relative: bool = True,
    stride: int = 1,
) -> Adapted:
    """Ours with that implementation's projection, k x k and strided itself, in the place of the paper's 1 x 1."""
    size = shape if relative else 1
    module = AAConv2d(
        in_channels, out_channels, kernel_size, stride, dk=dk, dv=dv, heads=Nh, relative=relative, feature_size=size
    )
    module.attention.sampling = Sampling.of_convolution(1, 1, 0, 1)
    module.attention.qkv = nn.Conv2d(in_channels, 2 * dk + dv, kernel_size, stride, padding=kernel_size // 2)
    return Adapted(module, _names(module, "qkv_conv"))


def _names(module: AAConv2d, qkv: str) -> dict[str, str]:
    layers = {"conv": "conv_out", "attention.qkv": qkv, "attention.proj": "attn_out"}
    tables = {"attention.rel_h": "key_rel_h", "attention.rel_w": "key_rel_w"}
    ours = [name for name, _ in module.named_parameters()]
    split = {name: name.rpartition(".") for name in ours if name not in tables}
    return {f"{layers[layer]}.{kind}": name for name, (layer, _, kind) in split.items()} | {
        theirs: name for name, theirs in tables.items() if name in ours
    }


def scrambled(module: AAConv2d, x: Tensor) -> Tensor:
    """Our layer with every head's (HW, dv) result read as (dv, H, W), without the transposition."""
    attention = module.attention
    out = attention._attend(*attention._split(attention.qkv(x)))
    by_pixel = out.unflatten(1, (attention.heads, -1)).flatten(3).transpose(2, 3)
    mixed = by_pixel.flatten(2).unflatten(2, (attention.value_depth, *out.shape[-2:])).flatten(1, 2)
    return torch.cat((module.conv(x), attention.proj(mixed)), dim=1)


ORACLE = ("aaconv", "own brute-force oracle of arXiv:1904.09925 eq. 3-4", "(generated)")
LEADERJ1001 = ("aaconv", "leaderj1001/Attention-Augmented-Conv2d", "attention_augmented_conv.py")

ADAPTERS = {ORACLE: of_oracle, LEADERJ1001: of_leaderj1001}
FAULTS = {
    LEADERJ1001: Fault(
        "pixels and channels of every head's result are mixed up: (HW, dv) is read as (dv, H, W)",
        # The distance on the stored file is 3.9, on values of about that size; without positions it can be smaller.
        distance=0.1,
        reproduce=scrambled,
    ),
}
