"""The catalogue's names bound to surgery: the functions of the package that add attention to a network."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from saccade._checks import check_choice, check_int
from saccade._factory import PLACES, builder, started_from, take_from_host
from saccade._specs import parse_spec
from saccade.attention._base import ConvLike
from saccade.attention._card import Card
from saccade.attention.catalog import MECHANISMS, card, check_mechanism, mechanism
from saccade.errors import UsageError
from saccade.surgery import (
    KINDS as SITE_KINDS,
)
from saccade.surgery import (
    At,
    Edit,
    Mode,
    Plan,
    Selection,
    Site,
    Sites,
    Start,
    Survey,
    apply_edits,
    attention_names,
    check_host,
    check_unwrapped,
    detach,
    live_plan,
    load_host_state,
    matching,
    select,
    unwrapped,
)

LOG = logging.getLogger("saccade")
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


def find_sites(model: nn.Module, example_input: Any = None, at: At | None = None) -> Sites:
    """The places in a network where attention can go. Prints as a table.

    Args:
        model: the host, any ``nn.Module``. It is not touched: a copy without numbers is run once, which calls none of
            the hooks that are functions.
        example_input: as of :func:`augment`.
        at: only the sites that this names, as of :func:`augment`; by default all.

    Raises:
        UsageError: nothing matches ``at``, with what would; a model that cannot be edited or run.
    """
    survey = Survey(model, example_input)
    return survey.sites if at is None else select(survey, at).sites


def augment(
    model: nn.Module,
    attention: str | None = None,
    *,
    at: At | Mapping[str, str] = "residual",
    options: dict[str, Any] | None = None,
    start: str = "identity",
    stages: str | None = None,
    max_positions: int | None = None,
    example_input: Any = None,
    inplace: bool = False,
    force: bool = False,
) -> nn.Module:
    """Add attention to a network.

    Args:
        model: the host, any ``nn.Module``. Names of its parameters stay.
        attention: a name of :func:`list_attention`. One of kind ``conv`` takes a convolution's place, ``norm`` a
            BatchNorm's; every other goes after a module's output, or at ``"input"`` before the first module.
        at: where: a kind of site (``"residual"``, ``"conv"``, ``"depthwise"``, ``"pointwise"``, ``"norm"``,
            ``"block"``, ``"stage"``, ``"input"``), a dotted path, a glob (``"*.bn2"``; ``*`` matches dots too), a
            function of a :class:`Site`, or a list of those. Or several, each with its mechanism, and then no
            ``attention``: ``{"residual": "se", "layer4.*.conv2": "aaconv(heads=4)"}``. A place
            named twice gets one edit.
        options: of the mechanism, as :func:`describe` lists them; ``aaconv`` takes its convolution's own (``dilation``,
            ``groups``, ``bias``) from the host.
        start: ``"identity"``: the network computes what it did, exactly, and attention is blended in by training, by a
            factor ``alpha`` that starts at 0. ``"paper"``: the paper's own form and initialisation; an augmented
            convolution then keeps the host's first ``out_channels - dv`` filters.
        stages: ``"deepest:N"``: only where the map has one of the N smallest sizes among all those places.
        max_positions: only where the map has at most so many positions, H W.
        example_input: what the host's forward takes, for the sizes of its maps: a tensor or a structure of tensors; a
            tuple is taken as several arguments, a named tuple as one. By default an image of the size in the host's
            ``pretrained_cfg``, else 224 x 224, with the channels that the first convolution takes, or three.
        inplace: edit ``model`` itself instead of a deep copy.
        force: add a mechanism also where the same one is already.

    Returns:
        The augmented network. What was done and what was left out is logged to ``saccade``, at level INFO;
        :func:`plan_of` tells it again.

    Raises:
        UsageError: nothing matches ``at``, or a mechanism does not fit there, with the call that would work; an unknown
            name or option; a model that cannot be edited or run.
    """
    parts = _parts(attention, at, options)
    check_choice("start", start, ("paper", "identity"))
    check_host(model)
    check_unwrapped(model)
    model = model if inplace else _copied(model)
    survey = Survey(model, example_input)
    # Resolutions are counted over all places: one may have no site among the deepest.
    among = [site for _, where, _ in parts for site in matching(survey, where)] if stages is not None else None
    placed: dict[tuple[str, bool, str], tuple[Edit, Site]] = {}
    for name, where, given in parts:
        _check_fit(name, where, survey)
        fits = PLACES.get(mechanism(name).paper.kind, SITE_KINDS)
        chosen = select(survey, where, stages=stages, max_positions=max_positions, fits=fits, among=among)
        for site in chosen.sites:
            edit = _edit(name, site, given, cast(Start, start))
            first, _ = placed.setdefault(edit.place, (edit, site))
            if first != edit:
                raise UsageError(
                    f"`at` (={at!r}) names {site.path!r} twice for {name!r}, with options {first.options} and "
                    f"{edit.options}; leave out one of them"
                )
        _log_skipped(name, chosen)
    _apply(survey, list(placed.values()), force=force)
    return model


def plan_of(model: nn.Module) -> Plan:
    """The edits that a model carries now; an empty plan for a plain host.

    Raises:
        UsageError: an edit that something removed behind our back, with what to do; TorchScript or a traced graph that
            holds attention as code.
    """
    return live_plan(unwrapped(model))


def strip(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """The host without its attention: its own modules, classes, names and weights.

    Weights that were trained stay trained. A convolution whose place an augmented one had taken (``start="paper"``)
    comes back as it was before: it was not part of the network since. Files of :func:`save` hold it; ``state_dict()``
    does not, so that after ``load_state_dict`` into another augmented host it comes back as that host had it: give that
    one the host's weights before augmenting.

    Args:
        model: an augmented network; a plain one comes back as it is.
        inplace: strip ``model`` itself instead of a deep copy; it may be a part of a network whose other edits stay.

    Raises:
        UsageError: TorchScript or a traced graph that holds attention as code, of which there is no host.
    """
    model = unwrapped(model)
    model = model if inplace else _copied(model)
    detach(model)
    return model


def apply_plan(model: nn.Module, plan: Plan, *, example_input: Any = None, inplace: bool = False) -> nn.Module:
    """Add to a network the edits of a plan; attention starts anew, as the plan's ``start`` says.

    Args:
        model: the host that the plan was made for, or one with modules of the same paths.
        plan: of :func:`plan_of`, or :meth:`Plan.from_json`.
        example_input: as of :func:`augment`.
        inplace: edit ``model`` itself instead of a deep copy.

    Raises:
        UsageError: a site that the host lacks; an edit that it carries already; a mode that its mechanism does not
            have; what :func:`augment` refuses.
    """
    if not isinstance(plan, Plan):
        raise UsageError(f"`plan` (={plan!r}) must be a saccade.Plan; Plan.from_json(text) reads one")
    check_host(model)
    check_unwrapped(model)
    model = model if inplace else _copied(model)
    there = {edit.place for edit in live_plan(model).edits}
    if twice := next((edit for edit in plan.edits if edit.place in there), None):
        raise UsageError(f"{twice.site!r} carries {twice.attention!r} already; saccade.strip(model) takes it off")
    survey = Survey(model, example_input)
    for edit in plan.edits:
        check_mechanism(edit.attention, edit.options)
        _check_mode(edit)
    placed = [(edit, survey.resolve(edit.site, edit.mode)) for edit in plan.edits]
    # A shared module has several paths; its edits go to the first.
    _apply(survey, [(replace(edit, site=site.path), site) for edit, site in placed], force=True)
    return model


def attention_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that edits brought: to train them first, or with a learning rate and weight decay of their own.

    A convolution that an augmented one took over (``start="paper"``) counts with all of its parameters.
    """
    model = unwrapped(model)
    names = attention_names(model)
    return [parameter for name, parameter in model.named_parameters() if name in names]


def host_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the host, those that :func:`attention_parameters` leaves out."""
    model = unwrapped(model)
    names = attention_names(model)
    return [parameter for name, parameter in model.named_parameters() if name not in names]


def load_host(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Load a checkpoint of the plain host into an augmented network; attention keeps its values.

    A convolution in whose place an augmented one stands (``start="paper"``) gives it what filters fit.

    Args:
        model: an augmented network.
        state: the host's ``state_dict``.

    Returns:
        The keys of the network's own state that the checkpoint does not have: all of them attention's.

    Raises:
        UsageError: keys that host or checkpoint lacks, or tensors of other shapes; nothing is loaded then.
    """
    return load_host_state(unwrapped(model), state, take_from_host)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # what a host keeps beside its tensors may refuse in any way
        raise UsageError(f"{type(model).__name__} cannot be copied ({error}); inplace=True edits it itself") from error


def _parts(
    attention: str | None, at: At | Mapping[str, str], options: dict[str, Any] | None
) -> list[tuple[str, At, dict[str, Any]]]:
    """(mechanism, where, options) of everything that is asked for."""
    if isinstance(at, Mapping):
        if attention is not None or options is not None:
            raise UsageError(
                "`at` as a mapping names mechanisms with their options, such as {'residual': 'gam(reduction=8)'}; "
                "leave out `attention` and `options`"
            )
        if not at:
            raise UsageError("`at` (={}) must name at least one place")
        specs = [(parse_spec(spec, "at"), where) for where, spec in at.items()]
        parts = [(spec.name, where, spec.options) for spec, where in specs]
    elif attention is None:
        raise UsageError(f"`attention` must be a mechanism; saccade.list_attention() names {len(MECHANISMS)}")
    else:
        parts = [(attention, at, {} if options is None else options)]
    for name, _, given in parts:
        check_mechanism(name, given)
    return parts


def _check_fit(name: str, where: At, survey: Survey) -> None:
    """A mechanism that takes a module's place needs a kind of site that has one; a path or a glob is taken as it is."""
    kind = mechanism(name).paper.kind
    fits = PLACES.get(kind, SITE_KINDS)
    if not isinstance(where, str) or where not in SITE_KINDS or where in fits:
        return
    counts = survey.sites.counts()
    there = next((kind for kind in fits if counts.get(kind)), None)
    works = f"saccade.augment(model, {name!r}, at={there!r}) finds {counts[there]}" if there else "the host has none"
    takes = {"conv": "a convolution's place", "norm": "a BatchNorm's place"}[kind]
    raise UsageError(f"{name!r} takes {takes}, and at={where!r} names no such places; {works}")


def _check_mode(edit: Edit) -> None:
    """A plan may come from a file: its mode must be one that its mechanism has."""
    modes = ("replace",) if mechanism(edit.attention).paper.kind in PLACES else ("after", "before")
    if edit.mode not in modes:
        raise UsageError(
            f"`mode` (={edit.mode!r}) of {edit.attention!r} at {edit.site!r} must be {' or '.join(map(repr, modes))}; "
            "write that in the plan"
        )


def _edit(name: str, site: Site, options: dict[str, Any], start: Start) -> Edit:
    kind = mechanism(name).paper.kind
    mode: Mode = "replace" if kind in PLACES else "before" if site.kind == "input" else "after"
    # With the sizes that the mechanism takes from here, so that the plan alone builds the same again.
    sized = mechanism(name).sized(site.in_size, site.size, options)
    return Edit(site.path, mode, name, {**sized, **options}, start)


def _apply(survey: Survey, placed: Sequence[tuple[Edit, Site]], *, force: bool) -> None:
    for site in {site.path: site for _, site in placed}.values():
        if site.calls > 1:
            warnings.warn(
                f"{site.path!r} is called {site.calls} times in one forward; one attention serves all of them",
                UserWarning,
                stacklevel=3,
            )
    before = sum(parameter.numel() for parameter in survey.model.parameters())
    apply_edits(survey, placed, builder(survey), force=force)
    added = sum(parameter.numel() for parameter in survey.model.parameters()) - before
    for name in dict.fromkeys(edit.attention for edit, _ in placed):
        LOG.info("%s at %s", name, ", ".join(edit.site for edit, _ in placed if edit.attention == name))
        replaced = [e.site for e, _ in placed if (e.attention, e.mode, e.start) == (name, "replace", "paper")]
        took = {path: started_from(survey.model.get_submodule(path)) for path in replaced}
        for what in dict.fromkeys(took.values()):
            LOG.info("%s starts from %s at %s", name, what, ", ".join(path for path in took if took[path] == what))
    LOG.info("%+d parameters, %+.2f %%", added, 100 * added / max(1, before))


def _log_skipped(name: str, chosen: Selection) -> None:
    for reason in dict.fromkeys(reason for _, reason in chosen.skipped):
        paths = ", ".join(site.path for site, why in chosen.skipped if why == reason)
        LOG.info("%s: %s leaves out %s", name, reason, paths)
