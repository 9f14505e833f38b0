"""From an edit of a plan to the module that it stands for: the factory that surgery is given."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from saccade.attention._base import Additive, ConvLike, Gate
from saccade.attention.catalog import mechanism
from saccade.attention.iebn import InstanceEnhancementBatchNorm2d
from saccade.attention.stn import SpatialTransformer
from saccade.errors import UsageError
from saccade.surgery import (
    AttachedEdit,
    ConvBlend,
    ConvTerm,
    Difference,
    Edit,
    GateBlend,
    ScaleBlend,
    Site,
    TermBlend,
    class_of,
)


def build(edit: Edit, site: Site, module: nn.Module) -> nn.Module:
    """The module of an edit at a site: the factory that surgery is given."""
    cls = mechanism(edit.attention)
    if issubclass(cls, ConvLike):
        return _build_in_place(cls, edit, site, module)
    if cls.paper.kind == "norm":
        return _build_norm(edit, module)
    attention = cls(site.channels, **edit.options)
    if edit.start == "paper" or attention.starts_as_identity:
        return AttachedEdit(attention, edit, site.layout)
    forms: dict[type, type[AttachedEdit]] = {Gate: GateBlend, Additive: TermBlend, SpatialTransformer: Difference}
    form = next(form for kind, form in forms.items() if isinstance(attention, kind))
    return form(attention, edit, site.layout)


def _build_norm(edit: Edit, norm: nn.Module) -> nn.Module:
    """The normalisation that takes another's place, or with an identity start the gate of its scale."""
    if not isinstance(norm, nn.BatchNorm2d) or class_of(norm).forward is not nn.BatchNorm2d.forward:
        raise UsageError(
            f"{edit.attention!r} takes the place of a plain nn.BatchNorm2d, and {edit.site!r} is a "
            f"{class_of(norm).__name__}; name other modules"
        )
    replacement = InstanceEnhancementBatchNorm2d.from_norm(norm, **edit.options)
    return replacement if edit.start == "paper" else ScaleBlend(replacement.scale_gate(), edit)


def _build_in_place(cls: type[ConvLike], edit: Edit, site: Site, conv: nn.Module) -> nn.Module:
    """The module that takes a convolution's place, or with an identity start what is blended into it."""
    if not isinstance(conv, nn.Conv2d):
        raise UsageError(
            f"{edit.attention!r} takes a convolution's place, and {edit.site!r} is a {class_of(conv).__name__}; "
            "name modules that are nn.Conv2d"
        )
    plain = class_of(conv).forward is nn.Conv2d.forward and not is_parametrized(conv)
    if edit.start == "paper":
        if not plain:
            raise UsageError(
                f"{edit.attention!r} takes the place of a plain convolution, and {edit.site!r} (a "
                f"{class_of(conv).__name__}) has its own way to compute, weights or padding for instance; "
                "start='identity' keeps it, or name other modules"
            )
        return cls.from_conv(conv, **edit.options)
    plain = plain and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    replacement = cls.from_conv(conv if plain else _plain(conv, edit, site), **edit.options)
    return ConvBlend(replacement.blended, edit) if replacement.added is None else ConvTerm(replacement.added, edit)


def _plain(conv: nn.Conv2d, edit: Edit, site: Site) -> nn.Conv2d:
    """A plain convolution that gives maps of the same size, for one with padding or weights of its own making.

    What an identity start blends in reads the map where this one would; the host's own goes on as it is.
    """
    halves = tuple(d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    for padding in (conv.padding, halves):
        if isinstance(padding, str):
            continue
        plain = nn.Conv2d(
            conv.in_channels, conv.out_channels, cast(Any, conv.kernel_size), cast(Any, conv.stride),
            cast(Any, padding), cast(Any, conv.dilation), conv.groups, conv.bias is not None, device="meta",
        )  # fmt: skip
        if tuple(plain(torch.empty(1, conv.in_channels, *site.in_size, device="meta")).shape[2:]) == site.size:
            plain = plain.to_empty(device=conv.weight.device).to(conv.weight.dtype)
            plain.weight.data.copy_(conv.weight.data)
            if plain.bias is not None and conv.bias is not None:
                plain.bias.data.copy_(conv.bias.data)
            return plain
    raise UsageError(
        f"{edit.attention!r} cannot follow {edit.site!r} (a {class_of(conv).__name__}): it makes maps of {site.size} "
        f"of {site.in_size}, which no padding of a plain convolution does; name other modules"
    )


def take_from_host(module: nn.Module, host: nn.Module) -> None:
    """What a module in a host's module's place takes of the host's weights."""
    if isinstance(module, ConvLike):
        module.take_filters(cast(nn.Conv2d, host))
    elif isinstance(module, InstanceEnhancementBatchNorm2d):
        module.take_norm(cast(nn.BatchNorm2d, host))
