"""Choosing among the sites of a host: by kind, by path or glob, by a function, by depth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from saccade._checks import check_int, nearest
from saccade.errors import UsageError
from saccade.surgery.attach import Edits, replaced_by
from saccade.surgery.sites import KINDS, Site, Sites
from saccade.surgery.survey import Survey

PROPOSED = ("residual", "block", "stage", "conv", "pointwise", "norm", "depthwise", "input")
Place = str | Callable[[Site], bool]
At = Place | Sequence[Place]


@dataclass(frozen=True)
class Selection:
    """The sites that were chosen, and those that a limit left out, each with the reason."""

    sites: Sites
    skipped: tuple[tuple[Site, str], ...] = ()


def select(
    survey: Survey,
    at: At,
    *,
    stages: str | None = None,
    max_positions: int | None = None,
    fits: Sequence[str] = KINDS,
    among: Sequence[Site] | None = None,
) -> Selection:
    """The sites that ``at`` names, without those that a limit leaves out.

    Args:
        survey: of the host.
        at: a kind (which wins over a module of that name), a path, a glob in which ``*`` also matches dots, a function
            of a :class:`Site`, or a list of those. A container such as ``nn.Sequential`` stands for the member that
            gives its output.
        stages: ``"deepest:N"``: only sites of the N smallest resolutions among those.
        max_positions: only sites whose map has at most so many positions, H W.
        fits: the kinds of site to propose where nothing matches.
        among: the sites whose resolutions ``stages`` counts, where these are not all: nothing may then be left.

    Raises:
        UsageError: nothing matches, with what would; a limit that leaves nothing.
    """
    found = matching(survey, at, fits)
    reason, keeps = _deepest(found if among is None else among, stages)
    skipped = [(site, reason) for site in found if not keeps(site)]
    found = deep = [site for site in found if keeps(site)]
    reason, keeps = _smallest(max_positions)
    skipped += [(site, reason) for site in found if not keeps(site)]
    found = [site for site in found if keeps(site)]
    if deep and not found:
        least = min((site for site, _ in skipped), key=lambda site: site.positions)
        raise UsageError(
            f"`max_positions` (={max_positions}) leaves no site: the smallest map, {least.height} x {least.width} at "
            f"{least.path!r}, has {least.positions} positions; give max_positions={least.positions} or more"
        )
    return Selection(Sites(found, survey.notes), tuple(skipped))


def match_paths(model: nn.Module, pattern: str) -> list[str]:
    """Paths of the modules that a dotted path or a glob names; in a glob, ``*`` also matches dots.

    Attention attached before is never matched.

    Raises:
        UsageError: no module matches, with the nearest paths.
    """
    paths = list(_paths(model))
    first = {module: path for path, module in reversed(list(model.named_modules(remove_duplicate=False)))}
    found = [path for path in paths if path == pattern or fnmatchcase(path, pattern)]
    if not found:
        shown = ", ".join(repr(path) for path in paths[-8:])
        raise UsageError(
            f"`at` (={pattern!r}) matches no module of {type(model).__name__}{nearest(pattern, (*paths, *KINDS))}. "
            f"It has {len(paths)} modules, the last ones {shown}; name a kind of site ({', '.join(KINDS)}), a path "
            "or a glob such as '*.bn2'"
        )
    return list(dict.fromkeys(first[model.get_submodule(path)] for path in found))


def matching(survey: Survey, at: At, fits: Sequence[str] = KINDS) -> list[Site]:
    """The sites that ``at`` names, without limits; for errors and ``fits`` see :func:`select`."""
    patterns = [at] if isinstance(at, str) or callable(at) else at
    if not isinstance(patterns, list | tuple) or not all(isinstance(p, str) or callable(p) for p in patterns):
        raise UsageError(
            f"`at` (={at!r}) must be a kind of site ({', '.join(KINDS)}), a module's path, a glob such as '*.bn2', "
            "a list of those, or a function of a Site"
        )
    if not patterns:
        raise UsageError(f"`at` (={at!r}) must name at least one place")
    # A module may be chosen twice only where one of the two places is before it.
    chosen: dict[tuple[str, bool], Site] = {}
    for pattern in patterns:
        if isinstance(pattern, str) and pattern not in KINDS:
            found = [survey.resolve(survey.member(path), "after") for path in match_paths(survey.model, pattern)]
        else:
            takes = pattern if callable(pattern) else lambda site, kind=pattern: site.kind == kind
            found = [site for site in survey.sites if takes(site)]
        if not found:
            there = _what_there_is(survey.sites, fits)
            raise UsageError(f"`at` (={pattern!r}) matches no site of {type(survey.model).__name__}. {there}")
        for site in found:
            chosen.setdefault((site.path, site.kind == "input"), site)
    return list(chosen.values())


def _what_there_is(sites: Sites, fits: Sequence[str]) -> str:
    """For an error: the kinds of site that a host has, and how to ask for one."""
    counts = sites.counts()
    if not counts:
        return sites.notes[-1]
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    best = next((kind for kind in PROPOSED if kind in counts and kind in fits), None)
    instance = f"for instance at={best!r}" if best else f"none of them of kind {' or '.join(fits)}"
    return f"It has {listed}: {instance}; saccade.find_sites(model) lists them"


def _deepest(sites: Iterable[Site], stages: str | None) -> tuple[str, Callable[[Site], bool]]:
    if stages is None:
        return "", lambda _: True
    count = re.fullmatch(r"deepest:(\d+)", stages) if isinstance(stages, str) else None
    if count is None or int(count[1]) < 1:
        raise UsageError(
            f"`stages` (={stages!r}) must be 'deepest:N', N the number of resolutions, such as 'deepest:3'"
        )
    kept = sorted({site.positions for site in sites})[: int(count[1])]
    return f"stages={stages!r}", lambda site: site.positions in kept


def _smallest(max_positions: int | None) -> tuple[str, Callable[[Site], bool]]:
    if max_positions is None:
        return "", lambda _: True
    check_int("max_positions", max_positions)
    return f"max_positions={max_positions}", lambda site: site.positions <= max_positions


def _paths(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Every path of the host's modules, also the further ones of shared modules, without attention."""
    for name, child in module._modules.items():
        if child is not None and not isinstance(child, Edits):
            yield f"{prefix}{name}"
            if replaced_by(child) is None:
                yield from _paths(child, f"{prefix}{name}.")
