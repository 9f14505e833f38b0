"""What a live model carries: its edits, read back from its modules and compared with those that it was given."""

from __future__ import annotations

import sys
from dataclasses import replace as replace_field
from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from saccade.errors import UsageError
from saccade.surgery.attach import CHILD, PLAN, Edited, edits_of, marks_of
from saccade.surgery.example import check_module
from saccade.surgery.plan import Edit, Mark, Plan

REMEDY = (
    "Convert, freeze or fuse the host first, then augment it: saccade.strip(model) takes off what is left, and "
    "saccade.augment adds it anew"
)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside of what torch.compile and the data-parallel wrappers make of one.

    Raises:
        UsageError: no module; TorchScript or a traced graph, which hold attention as code that is no edit any more.
    """
    check_module(model)
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = cast(nn.Module, model._orig_mod)
        else:
            break
    for path, module in model.named_modules():
        if isinstance(module, torch.fx.GraphModule | torch.jit.ScriptModule) and (inlined := _inlined(module)):
            where = f"`model` has at {path!r}" if path else "`model` is"
            raise UsageError(
                f"{where} a traced graph that holds the attention itself ({inlined}), not as an edit; take the network "
                "that it was traced from, saccade.strip(network), and trace the result"
            )
    return model


def check_unwrapped(model: nn.Module) -> None:
    """What runs a model in a way that would not see new edits is an error."""
    dynamo = sys.modules.get("torch._dynamo")  # takes seconds to import; without it nothing is compiled
    sharded = sys.modules.get("torch.distributed.fsdp")
    wrappers: tuple[type, ...] = (DistributedDataParallel, DataParallel)
    if sharded is not None:
        wrappers += (sharded.FullyShardedDataParallel, sharded.FSDPModule)
    for module in model.modules():
        if isinstance(module, wrappers):
            raise UsageError(
                f"the host is wrapped in {type(module).__name__}, which was set up for the parameters that there were; "
                "augment the module inside, then wrap it"
            )
        wrapped = dynamo is not None and isinstance(module, dynamo.OptimizedModule)
        if wrapped or module._compiled_call_impl is not None:
            raise UsageError(
                "the host is compiled already, and what is compiled would go on without the edits; augment the module "
                "that was given to torch.compile, then compile the result"
            )


def live_plan(model: nn.Module) -> Plan:
    """The edits that the model's modules carry now, in the order of the modules.

    An edit that something removed behind our back is an error, not silence. It may have moved with its module.
    """
    found = _found(model)
    live = {mark.token for mark, _, _ in found}
    for prefix, module in model.named_modules():
        for mark in vars(module).get(PLAN, ()):
            if mark.token not in live and not mark.stripped:
                site = f"{prefix}.{mark.edit.site}" if prefix else mark.edit.site
                raise UsageError(
                    f"{mark.edit.attention!r} at {site!r} is gone: {_what_is_there(model, site)}. {REMEDY}"
                )
    return Plan(tuple(edit for _, edit, _ in found), tuple(count for _, _, count in found))


def set_plan(model: nn.Module) -> None:
    """Have a model know the edits that it carries now as those that it was given."""
    marks = tuple(mark for mark, _, _ in _found(model))
    for module in model.modules():
        vars(module).pop(PLAN, None)
    setattr(model, PLAN, marks)


def _found(model: nn.Module) -> list[tuple[Mark, Edit, int]]:
    found: list[tuple[Mark, Edit, int]] = []
    for path, module in model.named_modules():
        if edits_of(module) and not isinstance(module, Edited):
            raise UsageError(
                f"the edits at {path!r} no longer run: something made it a new {type(module).__name__}. {REMEDY}"
            )
        # Where the module is now: the network may have become a part of another one since.
        found += [(mark, replace_field(mark.edit, site=path), count) for mark, count in marks_of(module)]
    return found


def _inlined(graph: nn.Module) -> str:
    """A name in a traced graph that an edit's own code left there, or nothing."""
    ours = {id(part) for module in graph.modules() for part in edits_of(module).modules()}
    ours |= {id(tensor) for module in graph.modules() for tensor in edits_of(module).parameters()}
    held = [*graph.named_modules(), *graph.named_parameters()]
    return next((name for name, part in held if CHILD in name.split(".") and id(part) not in ours), "")


def _what_is_there(model: nn.Module, site: str) -> str:
    try:
        return f"something put a new {type(model.get_submodule(site)).__name__} in the module's place"
    except AttributeError:
        return "the model has no such module now"
