"""For every source of golden files: our module for a file's config, and our name for each of the reference's names.

An adapter's keyword arguments are the config keys that its source may carry; another key is an error. Names are mapped
one to one; tensors keep their order of axes, and only axes of size 1 may come or go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import saccade
from saccade._checks import check_options
from saccade.attention.aaconv import AAConv2d
from saccade.attention.gam import GlobalAttention
from saccade.attention.se import SqueezeExcitation
from saccade.attention.sem import SwitchableExcitation, eca_kernel_size
from saccade.errors import UsageError
from saccade.nets import Bottleneck
from saccade.ops import relative_attention_2d

Source = tuple[str, str, str]  # module, repository, path
Adapted = tuple[nn.Module, dict[str, str]]


def se_of_moskomule(*, channel: int, reduction: int) -> Adapted:
    names = {"fc.0.weight": "fc1.weight", "fc.2.weight": "fc2.weight"}
    return SqueezeExcitation(channel, reduction=reduction, bias=False), names


def se_of_timm(*, channels: int, rd_channels: int, bias: bool = True) -> Adapted:
    module = SqueezeExcitation(channels, reduction=_reduction(channels, rd_channels), bias=bias)
    return module, {name: name for name, _ in module.named_parameters()}


SEM_NAMES = {
    "switch_fc.weight": "decision.weight",
    "switch_fc.bias": "decision.bias",
    "fc1.weight": "fc1.weight",
    "fc1.bias": "fc1.bias",
    "fc2.weight": "fc2.weight",
    "fc2.bias": "fc2.bias",
    "conv.weight": "conv.weight",
    "w1": "gamma",
    "b1": "beta",
}


def sem_of_authors(
    *,
    C: int | None = None,  # noqa: N803  the file's own key
    hidden: int | None = None,
    k: int | None = None,
    switch_num: int = 3,
    inplanes: int | None = None,
    planes: int | None = None,
) -> Adapted:
    """The attention alone (``C``), or the authors' whole bottleneck (``planes``): our block with sem put at its bn3."""
    if switch_num != 3:
        raise UsageError(f"`switch_num` (={switch_num}) must be 3, the number of sem's operators")
    if planes is not None:
        return _sem_bottleneck(inplanes, planes)
    if C is None:
        raise UsageError("a sem file must give `C` or `planes`")
    if k is not None and k != eca_kernel_size(C):
        raise UsageError(f"`k` (={k}) must be {eca_kernel_size(C)} for {C} channels")
    return SwitchableExcitation(C, reduction=_reduction(C, hidden or max(1, round(C / 16)))), dict(SEM_NAMES)


def _sem_bottleneck(inplanes: int | None, planes: int) -> Adapted:
    channels = planes * Bottleneck.expansion
    if inplanes != channels:
        raise UsageError(f"`inplanes` (={inplanes}) must be {channels}: a block without a projection")
    options = {"reduction": _reduction(channels, max(1, round(planes / 4)))}
    example = torch.zeros(1, channels, 8, 8)
    block = Bottleneck(channels, planes, stride=1)
    names = {name: name for name in block.state_dict()}
    block = saccade.augment(block, "sem", at="bn3", start="paper", options=options, example_input=example)
    return block, names | {theirs: f"bn3.saccade.sem.attention.{ours}" for theirs, ours in SEM_NAMES.items()}


def gam_of_article(*, in_channels: int, out_channels: int, rate: int, channel_sigmoid: bool = False) -> Adapted:
    if in_channels != out_channels:
        raise UsageError(f"`out_channels` (={out_channels}) must be `in_channels` (={in_channels}): a gate keeps them")
    module = GlobalAttention(in_channels, reduction=rate, channel_gate="sigmoid" if channel_sigmoid else "none")
    theirs = {"fc1": "channel_attention.0", "fc2": "channel_attention.2", "spatial": "spatial_attention"}
    heads = {name: name.partition(".") for name in module.state_dict()}
    return module, {f"{theirs[head]}.{rest}": name for name, (head, _, rest) in heads.items()}


def aaconv_of_oracle(
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
    return module, _aaconv_names(module, "qkv")


def aaconv_of_leaderj1001(
    *,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    dk: int,
    dv: int,
    Nh: int,  # noqa: N803  the file's own key
    shape: int,
    relative: bool = True,
    stride: int = 1,
) -> Adapted:
    """Ours with that implementation's k x k projection in the place of the paper's 1 x 1."""
    if stride != 1:
        raise UsageError(f"`stride` (={stride}) must be 1: that implementation strides its k x k projection")
    module = AAConv2d(
        in_channels, out_channels, kernel_size, dk=dk, dv=dv, heads=Nh, relative=relative, feature_size=shape
    )
    module.attention.qkv = nn.Conv2d(in_channels, 2 * dk + dv, kernel_size, padding=kernel_size // 2)
    return module, _aaconv_names(module, "qkv_conv")


def _aaconv_names(module: AAConv2d, qkv: str) -> dict[str, str]:
    layers = {"conv": "conv_out", "attention.qkv": qkv, "attention.proj": "attn_out"}
    tables = {"attention.rel_h": "key_rel_h", "attention.rel_w": "key_rel_w"}
    ours = [name for name, _ in module.named_parameters()]
    split = {name: name.rpartition(".") for name in ours if name not in tables}
    return {f"{layers[layer]}.{kind}": name for name, (layer, _, kind) in split.items()} | {
        theirs: name for name, theirs in tables.items() if name in ours
    }


def _reduction(channels: int, width: int) -> int:
    """The reduction that gives a hidden width."""
    reduction = channels // width
    if max(1, channels // reduction) != width:
        raise UsageError(f"no reduction of {channels} channels gives a hidden width of {width}")
    return reduction


ADAPTERS: dict[Source, Callable[..., Adapted]] = {
    ("aaconv", "own brute-force oracle of arXiv:1904.09925 eq. 3-4", "(generated)"): aaconv_of_oracle,
    ("aaconv", "leaderj1001/Attention-Augmented-Conv2d", "attention_augmented_conv.py"): aaconv_of_leaderj1001,
    ("se", "moskomule/senet.pytorch", "senet/se_module.py"): se_of_moskomule,
    ("se", "huggingface/pytorch-image-models (timm wheel)", "timm/layers/squeeze_excite.py"): se_of_timm,
    ("sem", "Qrange-group/SEM", "models/sem.py"): sem_of_authors,
    ("gam", "GAM article", "GAM_Attention"): gam_of_article,
    ("gam", "GAM article + one edit", "GAM_Attention"): gam_of_article,
}


def adapt(source: Source, config: Mapping[str, Any]) -> Adapted:
    """Our module and names for a file.

    Raises:
        UsageError: a source without an adapter, or a config key that its adapter does not read.
    """
    if source not in ADAPTERS:
        raise UsageError(f"no adapter for the golden files of {source}; write one in tests/parity/adapters.py")
    adapter = ADAPTERS[source]
    check_options(f"the adapter of {source}", adapter, dict(config))
    return adapter(**config)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a reference: we differ from it by at least ``distance``, and agree once the fault is ours."""

    reason: str
    distance: float
    reproduce: Callable[[Any, Tensor], Tensor]


def scrambled(module: AAConv2d, x: Tensor) -> Tensor:
    """Our layer with every head's (HW, dv) result read as (dv, H, W), without the transposition."""
    attention = module.attention
    heads, size = attention.heads, x.shape[-2:]
    depths = (heads * attention.key_depth, heads * attention.key_depth, heads * attention.value_depth)
    q, k, v = (part.unflatten(1, (heads, -1)).permute(0, 1, 3, 4, 2) for part in attention.qkv(x).split(depths, dim=1))
    out = relative_attention_2d(q, k, v, attention.rel_h, attention.rel_w)
    out = out.flatten(2).unflatten(2, (attention.value_depth, *size)).flatten(1, 2)
    return torch.cat((module.conv(x), attention.proj(out)), dim=1)


FAULTS: dict[Source, Fault] = {
    ("aaconv", "leaderj1001/Attention-Augmented-Conv2d", "attention_augmented_conv.py"): Fault(
        "pixels and channels of every head's result are mixed up: (HW, dv) is read as (dv, H, W)",
        # The distance on the stored file is 3.9, on values of about that size.
        distance=1.0,
        reproduce=scrambled,
    ),
}
