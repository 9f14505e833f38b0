"""The catalogue's names bound to surgery: the functions of the package that add attention to a network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from saccade._checks import check_choice, check_int
from saccade.attention._base import Additive, ConvLike, Gate
from saccade.attention._card import Card
from saccade.attention.catalog import MECHANISMS, card, check_mechanism, mechanism
from saccade.errors import UsageError
from saccade.surgery import (
    AttachedEdit,
    ConvBlend,
    ConvTerm,
    Edit,
    Edited,
    GateBlend,
    Plan,
    Site,
    TermBlend,
    apply_edits,
    detach,
    host_class,
    live_plan,
    match_paths,
    resolve_sites,
)

KINDS = ("gate", "context", "conv", "norm", "warp", "position")
ATTENDS = ("channel", "spatial", "channel+spatial", "positions")


def list_attention(kind: str | None = None, attends: str | None = None) -> list[str]:
    """Names of the mechanisms, all or those of one ``kind`` and of what they weigh (``attends``)."""
    if kind is not None:
        check_choice("kind", kind, KINDS)
    if attends is not None:
        check_choice("attends", attends, ATTENDS)
    return [
        name
        for name, cls in MECHANISMS.items()
        if kind in (None, cls.paper.kind) and attends in (None, cls.paper.attends)
    ]


def describe(name: str) -> Card:
    """All about a mechanism: paper, equations, options with defaults, deviations, limits. Prints as text."""
    return card(name)


def create_attention(name: str, channels: int, **options: Any) -> nn.Module:
    """Build a mechanism for maps of ``channels`` channels: (B, C, H, W) -> (B, C, H, W).

    A mechanism that takes a convolution's place becomes a 3 x 3 one with as many output as input channels.

    Raises:
        UsageError: an unknown name or option, with the nearest known ones; an option out of range.
    """
    check_mechanism(name, options)
    check_int("channels", channels)
    cls = mechanism(name)
    return cls(channels, channels, 3, **options) if issubclass(cls, ConvLike) else cls(channels, **options)


def augment(
    model: nn.Module,
    attention: str,
    *,
    at: str | Sequence[str],
    options: dict[str, Any] | None = None,
    start: str = "identity",
    example_input: Any = None,
    inplace: bool = False,
) -> nn.Module:
    """Add attention to a network at the modules that ``at`` names.

    Args:
        model: the host, any ``nn.Module``. Names of its parameters stay.
        attention: a name of :func:`list_attention`. A gate goes after the module's output; ``aaconv`` takes a
            convolution's place.
        at: a dotted path, a glob (``"*.bn2"``; ``*`` matches dots too), or a list of those.
        options: of the mechanism, as :func:`describe` lists them; ``aaconv`` takes its convolution's own (``dilation``,
            ``groups``, ``bias``) from the host.
        start: ``"identity"``: the network computes what it did, exactly, and attention is blended in by training, by a
            factor ``alpha`` that starts at 0. ``"paper"``: the paper's own form and initialisation; an augmented
            convolution then keeps the host's first ``out_channels - dv`` filters.
        example_input: what the host's forward takes as its one argument (images, or lists and dicts of them), for the
            sizes of its maps; by default an image of the size in the host's ``pretrained_cfg``, else 224 x 224.
        inplace: edit ``model`` itself instead of a deep copy.

    Returns:
        The augmented network.

    Raises:
        UsageError: nothing matches ``at``; a mechanism that does not fit a module there; an unknown name or option.
    """
    check_mechanism(attention, options or {})
    check_choice("start", start, ("paper", "identity"))
    if not isinstance(model, nn.Module):
        raise UsageError(f"`model` (={model!r}) must be an nn.Module")
    kind = mechanism(attention).paper.kind
    if kind == "norm":
        raise UsageError(f"{attention!r} takes a normalisation's place, which augment cannot do yet")
    mode = "replace" if kind == "conv" else "after"
    model = model if inplace else copy.deepcopy(model)
    sites = resolve_sites(model, match_paths(model, at), example_input)
    edits = [Edit(site.path, mode, attention, dict(options or {}), cast(Any, start)) for site in sites]
    apply_edits(model, edits, sites, _build)
    return model


def plan_of(model: nn.Module) -> Plan:
    """The edits that a model carries now; an empty plan for a plain host.

    Raises:
        UsageError: an edit that something removed behind our back, with what to do.
    """
    return live_plan(model)


def strip(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """The host without its attention: its own modules, classes, names and weights.

    Weights that were trained stay trained. A convolution whose place an augmented one had taken (``start="paper"``)
    comes back as it was before: it was not part of the network since.

    Args:
        model: an augmented network; a plain one comes back as it is.
        inplace: strip ``model`` itself instead of a deep copy.
    """
    model = model if inplace else copy.deepcopy(model)
    detach(model)
    return model


def _build(edit: Edit, site: Site) -> nn.Module:
    """The module of an edit at a site: the factory that surgery is given."""
    cls = mechanism(edit.attention)
    sizes = cls.sized(site.in_size, site.out_size, edit.options)
    if issubclass(cls, ConvLike):
        return _build_in_place(cls, edit, site, sizes)
    attention = cls(site.out_shape[1], **sizes, **edit.options)
    if edit.start == "paper" or attention.starts_as_identity:
        return AttachedEdit(attention, edit)
    if isinstance(attention, Gate):
        return GateBlend(attention, edit)
    if isinstance(attention, Additive):
        return TermBlend(attention, edit)
    raise UsageError(f"{edit.attention!r} has no identity start yet; give start='paper'")


def _build_in_place(cls: type[ConvLike], edit: Edit, site: Site, sizes: dict[str, Any]) -> nn.Module:
    """The module that takes a convolution's place, or with an identity start what is blended into it."""
    conv = site.module
    if not isinstance(conv, nn.Conv2d):
        raise UsageError(
            f"{edit.attention!r} takes a convolution's place, and {edit.site!r} is a {type(conv).__name__}; "
            "name modules that are nn.Conv2d"
        )
    host = host_class(type(conv)) if isinstance(conv, Edited) else type(conv)
    if host.forward is not nn.Conv2d.forward or is_parametrized(conv):
        raise UsageError(
            f"{edit.attention!r} takes the place of a plain convolution, and {edit.site!r} (a {host.__name__}) has its "
            "own way to compute, weights or padding for instance; name other modules"
        )
    replacement = cls.from_conv(conv, **sizes, **edit.options)
    if edit.start == "paper":
        return replacement
    return ConvBlend(replacement.blended, edit) if replacement.added is None else ConvTerm(replacement.added, edit)
