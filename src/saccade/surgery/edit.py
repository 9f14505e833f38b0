"""Apply edits to a model, and read back which edits a live model carries."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace as replace_field
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from saccade.errors import UsageError
from saccade.surgery.attach import (
    PLAN,
    AttachedEdit,
    Edited,
    attach,
    check_place,
    edits_of,
    put,
    replace,
    replaced_by,
    unattach,
)
from saccade.surgery.example import check_module
from saccade.surgery.plan import Edit, Plan
from saccade.surgery.sites import Site, Survey

Build = Callable[[Edit, Site, nn.Module], nn.Module]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside of what torch.compile and the data-parallel wrappers make of one."""
    check_module(model)
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def check_unwrapped(model: nn.Module) -> None:
    """What runs a model in a way that would not see new edits is an error."""
    dynamo = sys.modules.get("torch._dynamo")  # takes seconds to import; without it nothing is compiled
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            raise UsageError(
                "the host is wrapped in DistributedDataParallel, which would not average the gradients of new "
                "parameters; augment the module inside, then wrap it"
            )
        wrapped = dynamo is not None and isinstance(module, dynamo.OptimizedModule)
        if wrapped or module._compiled_call_impl is not None:
            raise UsageError(
                "the host is compiled already, and what is compiled would go on without the edits; augment the module "
                "that was given to torch.compile, then compile the result"
            )


def apply_edits(survey: Survey, placed: Iterable[tuple[Edit, Site]], build: Build, *, force: bool = False) -> None:
    """Build the module of every edit at its site and attach it, in place.

    ``build`` gives an :class:`AttachedEdit` for a module that stays, or the module that takes its place. Everything is
    built before anything is attached, so that an error leaves the model as it was.
    """
    model = survey.model
    before = live_plan(model)
    built = [(edit, _built(build, edit, site, survey.modules[site.path])) for edit, site in placed]
    carried = {edit.site: list(edits_of(survey.modules[edit.site])) for edit, _ in built}
    for edit, new in built:
        replaces = not isinstance(new, AttachedEdit)
        check_place(survey.modules[edit.site], edit, carried[edit.site], replaces=replaces, force=force)
        carried[edit.site] += [] if replaces else [edit.attention]
    done: list[tuple[Edit, nn.Module, nn.Module]] = []
    for edit, new in built:
        # Looked up again: an edit before this one may have put another module in the place.
        module = model.get_submodule(edit.site)
        _follow(new, module, model)
        done.append((edit, new, module))
        if isinstance(new, AttachedEdit):
            attach(module, new)
        else:
            replace(model, new, edit)
    _check_they_run(survey, done)
    for module in model.modules():
        vars(module).pop(PLAN, None)
    setattr(model, PLAN, _found(model))
    assert len(live_plan(model)) == len(before) + len(built), "an edit was lost while it was applied"


def live_plan(model: nn.Module) -> Plan:
    """The edits that the model's modules carry now, in the order of the modules.

    An edit that something removed behind our back is an error, not silence.
    """
    found = _found(model)
    running = Counter((edit.site, edit.attention) for edit in found.edits)
    for prefix, module in model.named_modules():
        given = vars(module).get(PLAN)
        for edit in given.edits if isinstance(given, Plan) else ():
            site = f"{prefix}.{edit.site}" if prefix else edit.site
            running[site, edit.attention] -= 1
            if running[site, edit.attention] < 0:
                raise UsageError(f"{edit.attention!r} at {site!r} is gone: {_what_is_there(model, site)}. {REMEDY}")
    return found


REMEDY = (
    "Convert, freeze or fuse the host first, then augment it: saccade.strip(model) takes off what is left, and "
    "saccade.augment adds it anew"
)


def _built(build: Build, edit: Edit, site: Site, module: nn.Module) -> nn.Module:
    try:
        return build(edit, site, module)
    except UsageError as error:
        # A mechanism knows what is wrong, not where it was to stand.
        raise error if repr(edit.site) in str(error) else UsageError(f"{error} (at {edit.site!r})") from error


def _found(model: nn.Module) -> Plan:
    found: list[tuple[Edit, int]] = []
    for path, module in model.named_modules():
        edits: list[tuple[Edit, int]] = []
        carried = edits_of(module)
        if carried and not isinstance(module, Edited):
            raise UsageError(
                f"the edits at {path!r} no longer run: something made it a new {type(module).__name__}. {REMEDY}"
            )
        if (replaced := replaced_by(module)) is not None:
            host, edit = replaced
            edits.append((edit, _count(module) - _count(host)))
        edits += [(each.edit, _count(each)) for each in carried.values() if isinstance(each, AttachedEdit)]
        # Where the module is now: the network may have become a part of another one since.
        found += [(replace_field(edit, site=path), count) for edit, count in edits]
    return Plan(tuple(edit for edit, _ in found), tuple(count for _, count in found))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _what_is_there(model: nn.Module, site: str) -> str:
    try:
        return f"something put a new {type(model.get_submodule(site)).__name__} in the module's place"
    except AttributeError:
        return "the model has no such module now"


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


def _follow(new: nn.Module, site: nn.Module, model: nn.Module) -> None:
    """Device, dtype, layout in memory and mode of the host."""
    # A frozen BatchNorm has buffers only; what counts (num_batches_tracked) has no type to follow.
    tensors = chain(site.parameters(), site.buffers(), model.parameters(), model.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    if any(_is_channels_last(parameter) for parameter in model.parameters()):
        new.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    new.train(site.training)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
