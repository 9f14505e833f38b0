"""Apply edits to a model: all of them, or after an error none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace as replace_field
from itertools import chain

import torch
from torch import Tensor, nn

from saccade.errors import UsageError
from saccade.surgery.attach import attach, check_place, edits_of, put, replace, unattach
from saccade.surgery.forms import AttachedEdit
from saccade.surgery.live import live_plan, set_plan
from saccade.surgery.plan import Edit
from saccade.surgery.sites import Site
from saccade.surgery.survey import Survey

Build = Callable[[Edit, Site, nn.Module], nn.Module]


def apply_edits(survey: Survey, placed: Iterable[tuple[Edit, Site]], build: Build, *, force: bool = False) -> None:
    """Build the module of every edit at its site and attach it, in place.

    ``build`` gives an :class:`AttachedEdit` for a module that stays, or the module that takes its place. Everything is
    built before anything is attached, so that an error leaves the model as it was.
    """
    model = survey.model
    before = live_plan(model)
    built = [(edit, _built(build, edit, site, survey.modules[site.path])) for edit, site in placed]
    carried = {edit.site: _carried(survey.modules[edit.site], edit.site) for edit, _ in built}
    for edit, new in built:
        replaces = not isinstance(new, AttachedEdit)
        check_place(survey.modules[edit.site], edit, carried[edit.site], replaces=replaces, force=force)
        carried[edit.site] += [] if replaces else [edit]
    done: list[tuple[Edit, nn.Module, nn.Module]] = []
    for edit, new in built:
        # Looked up again: an edit before this one may have put another module in the place.
        module = model.get_submodule(edit.site)
        # Beside a module it meets the map, whose type need not be that of the module's weights.
        _follow(new, module, model, survey.dtype(edit) if isinstance(new, AttachedEdit) else None)
        done.append((edit, new, module))
        if isinstance(new, AttachedEdit):
            attach(module, new)
        else:
            replace(model, new, edit)
    _check_they_run(survey, done)
    set_plan(model)
    assert len(live_plan(model)) == len(before) + len(built), "an edit was lost while it was applied"


def _carried(module: nn.Module, path: str) -> list[Edit]:
    """The edits that live in a module and would go with it, as of the path that it has now."""
    attached = [each for each in edits_of(module).values() if isinstance(each, AttachedEdit)]
    return [replace_field(each.edit, site=path) for each in attached]


def _built(build: Build, edit: Edit, site: Site, module: nn.Module) -> nn.Module:
    try:
        return build(edit, site, module)
    except UsageError as error:
        # A mechanism knows what is wrong, not where it was to stand.
        raise error if repr(edit.site) in str(error) else UsageError(f"{error} (at {edit.site!r})") from error


def _check_they_run(survey: Survey, done: list[tuple[Edit, nn.Module, nn.Module]]) -> None:
    """Run once more where a host could treat an edit in another way than we think; if it does, take all of them off.

    A host that calls a module by a reference of its own (in a plain list) goes on calling the one that was replaced; a
    module that calls whatever children it has would call an edit as one of them.
    """
    if not any(not isinstance(new, AttachedEdit) or module._modules for _, new, module in done):
        return
    try:
        after = Survey(survey.model, survey.args)
        silent = next((edit for edit, _, _ in done if not after.calls[edit.site]), None)
        if silent is None:
            return
        reason = f"the host does not call {silent.site!r} by its name; start='identity' keeps the module"
    except UsageError as error:
        reason = f"the host no longer runs with attention there ({error.__cause__ or error})"
    for _, new, module in reversed(done):
        if isinstance(new, AttachedEdit):
            unattach(module, new)
        else:
            put(survey.model, new, module)
    raise UsageError(f"{reason}; or name other modules")


def _follow(new: nn.Module, site: nn.Module, model: nn.Module, dtype: torch.dtype | None) -> None:
    """Device, dtype (its module's by default), layout in memory and mode of the host."""
    # A frozen BatchNorm has buffers only; what counts (num_batches_tracked) has no type to follow.
    tensors = chain(site.parameters(), site.buffers(), model.parameters(), model.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    if like is not None:
        new.to(device=like.device, dtype=dtype or like.dtype)
    if any(_is_channels_last(parameter) for parameter in model.parameters()):
        new.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    new.train(site.training)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
