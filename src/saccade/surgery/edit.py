"""Apply edits to a model, and read back which edits a live model carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from saccade.errors import UsageError
from saccade.surgery.attach import AttachedEdit, Edited, attach, check_place, edits_of, replace, replaced_by
from saccade.surgery.plan import Edit, Plan
from saccade.surgery.sites import Site

Build = Callable[[Edit, Site], nn.Module]


def apply_edits(model: nn.Module, edits: Iterable[Edit], sites: Iterable[Site], build: Build) -> None:
    """Build every edit's module and attach it at its site, in place.

    ``build`` gives an :class:`AttachedEdit` for a module that stays, or the module that takes its place. Everything is
    built before anything is attached, so that an error leaves the model as it was.
    """
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise UsageError(
            "the host is wrapped in DistributedDataParallel, which would not average the gradients of new parameters; "
            "augment the module inside, then wrap it"
        )
    by_path = {site.path: site for site in sites}
    built = [(edit, build(edit, by_path[edit.site])) for edit in edits]
    carried = {path: list(edits_of(site.module)) for path, site in by_path.items()}
    for edit, new in built:
        replaces = not isinstance(new, AttachedEdit)
        check_place(by_path[edit.site].module, edit, carried[edit.site], replaces=replaces)
        carried[edit.site] += [] if replaces else [edit.attention]
    for edit, new in built:
        # Looked up again: an edit before this one may have put another module in the place.
        site = model.get_submodule(edit.site)
        _follow(new, site, model)
        if isinstance(new, AttachedEdit):
            attach(site, new)
        else:
            replace(model, new, edit)


def live_plan(model: nn.Module) -> Plan:
    """The edits that the model's modules carry now, in the order of the modules.

    An edit whose module was replaced behind our back (SyncBatchNorm conversion does that) is an error, not silence.
    """
    edits: list[Edit] = []
    for path, module in model.named_modules():
        carried = edits_of(module)
        if carried and not isinstance(module, Edited):
            raise UsageError(
                f"the edits at {path!r} no longer run: something made it a new {type(module).__name__}; "
                "convert or freeze the host first, then augment it"
            )
        if (replaced := replaced_by(module)) is not None:
            edits.append(replaced[1])
        edits += [attached.edit for attached in carried.values() if isinstance(attached, AttachedEdit)]
    return Plan(tuple(edits))


def _follow(new: nn.Module, site: nn.Module, model: nn.Module) -> None:
    """Device, dtype and mode of the host."""
    # A frozen BatchNorm has buffers only; what counts (num_batches_tracked) has no type to follow.
    tensors = chain(site.parameters(), site.buffers(), model.parameters(), model.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    new.train(site.training)
