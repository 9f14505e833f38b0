"""From an edit of a plan to the module that it stands for: the factory that surgery is given."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
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
    Build,
    ConvBlend,
    ConvTerm,
    Difference,
    Edit,
    GateBlend,
    ScaleBlend,
    Site,
    Survey,
    TermBlend,
    class_of,
    replaced_by,
)

# The kinds of site whose module a mechanism takes the place of; one of any other kind goes beside any module.
PLACES = {"conv": ("conv", "pointwise"), "norm": ("norm",)}
SHOWN = 3  # places in an error


def builder(survey: Survey) -> Build:
    """The factory that surgery is given for a host."""
    return partial(build, survey=survey)


def build(edit: Edit, site: Site, module: nn.Module, *, survey: Survey) -> nn.Module:
    """The module of an edit at a site."""
    if why := _misfit(edit, module):
        raise UsageError(f"{why}; {_instead(edit, survey)}")
    cls = mechanism(edit.attention)
    if issubclass(cls, ConvLike):
        return _build_in_place(cls, edit, site, cast(nn.Conv2d, module))
    if cls.paper.kind == "norm":
        return _build_norm(edit, cast(nn.BatchNorm2d, module))
    attention = cls(site.channels, **edit.options)
    if edit.start == "paper" or attention.starts_as_identity:
        return AttachedEdit(attention, edit, site.layout)
    forms: dict[type, type[AttachedEdit]] = {Gate: GateBlend, Additive: TermBlend, SpatialTransformer: Difference}
    form = next(form for kind, form in forms.items() if isinstance(attention, kind))
    return form(attention, edit, site.layout)


def _misfit(edit: Edit, module: nn.Module) -> str:
    """Why a mechanism cannot take a module's place, or nothing where it can; most take none."""
    kind, own = mechanism(edit.attention).paper.kind, class_of(module)
    if kind == "norm" and not (isinstance(module, nn.BatchNorm2d) and own.forward is nn.BatchNorm2d.forward):
        return f"{edit.attention!r} takes the place of a plain nn.BatchNorm2d, and {edit.site!r} is a {own.__name__}"
    if kind != "conv":
        return ""
    if not isinstance(module, nn.Conv2d):
        return f"{edit.attention!r} takes a convolution's place, and {edit.site!r} is a {own.__name__}"
    if edit.start == "paper" and not _is_plain(module):
        return (
            f"{edit.attention!r} takes the place of a plain convolution, and {edit.site!r} (a {own.__name__}) has its "
            "own way to compute, weights or padding for instance, which start='identity' keeps"
        )
    return ""


def _is_plain(conv: nn.Conv2d) -> bool:
    return class_of(conv).forward is nn.Conv2d.forward and not is_parametrized(conv)


def _instead(edit: Edit, survey: Survey) -> str:
    """The call that puts a mechanism where it fits."""
    kinds = PLACES[mechanism(edit.attention).paper.kind]
    sites = [site.path for site in survey.sites if site.kind in kinds]
    fitting = [path for path in sites if not _misfit(replace(edit, site=path), survey.modules[path])]
    if not fitting:
        return "the host has no module that fits"
    start = "" if edit.start == "identity" else f", start={edit.start!r}"
    return (
        f"name other modules, of which {len(fitting)} fit: "
        f"saccade.augment(model, {edit.attention!r}, at={fitting[:SHOWN]!r}{start})"
    )


def _build_norm(edit: Edit, norm: nn.BatchNorm2d) -> nn.Module:
    """The normalisation that takes another's place, or with an identity start the gate of its scale."""
    replacement = InstanceEnhancementBatchNorm2d.from_norm(norm, **edit.options)
    return replacement if edit.start == "paper" else ScaleBlend(replacement.scale_gate(), edit)


def _build_in_place(cls: type[ConvLike], edit: Edit, site: Site, conv: nn.Conv2d) -> nn.Module:
    """The module that takes a convolution's place, or with an identity start what is blended into it."""
    if edit.start == "paper":
        return cls.from_conv(conv, **edit.options)
    plain = _is_plain(conv) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    replacement = cls.from_conv(conv if plain else _plain(conv, edit, site), **edit.options)
    return ConvBlend(replacement.blended, edit) if replacement.added is None else ConvTerm(replacement.added, edit)


def _plain(conv: nn.Conv2d, edit: Edit, site: Site) -> nn.Conv2d:
    """A plain convolution that gives maps of the same size, for one with padding or weights of its own making.

    What an identity start blends in reads the map where this one would; the host's own goes on as it is.
    """
    halves = tuple(d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    given = () if isinstance(conv.padding, str) else (conv.padding,)
    for padding in (*given, 0, halves):
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


def started_from(module: nn.Module) -> str:
    """What a module in another's place took of it, for the log."""
    if isinstance(module, ConvLike) and (replaced := replaced_by(module)) is not None:
        return f"{module.host_filters} of the host's {cast(nn.Conv2d, replaced[0]).out_channels} filters"
    return "the host's scale, shift and statistics"
