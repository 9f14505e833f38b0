"""How an edit attaches to a module of the host, and how it comes off again.

The module keeps its weights, its name and its place; its class becomes a subclass of its own that calls the host's
forward and then the edits, which live in a child named ``saccade``. Measured against hooks, wrappers and
parametrisations, this is the way that keeps parameter names and ``isinstance``, survives deepcopy and pickle, and that
fusing a convolution with its BatchNorm does not silently drop.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from saccade.errors import UsageError
from saccade.surgery.plan import Edit

CHILD = "saccade"  # of a module: its edits
PLAN = "saccade_plan"  # an attribute of an augmented model: the edits that it was given
COPYING = ("__deepcopy__", "__reduce__", "__reduce_ex__")


class AttachedEdit(nn.Module):
    """An attention at a site: from what the module takes, x, and gives, y, to the new y. The paper's form.

    ``before`` a module, both are what it takes. A map of layout ``"nhwc"`` is seen as (B, C, H, W).
    """

    def __init__(self, attention: nn.Module, edit: Edit, layout: str = "nchw") -> None:
        super().__init__()
        self.attention = attention
        self.edit = edit
        self.nhwc = layout == "nhwc"
        self.before = edit.mode == "before"

    def forward(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        if self.nhwc:
            return self.form(module, x, y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.form(module, x, y)

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        """The new y of a module, (B, C, H, W)."""
        return self.attention(y)

    def extra_repr(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"{self.edit}, {count:,} parameters"


class Blend(AttachedEdit):
    """An identity start by a factor a, ``alpha``, that starts at 0; at 1 it gives the paper's form."""

    def __init__(self, attention: nn.Module, edit: Edit, layout: str = "nchw") -> None:
        super().__init__(attention, edit, layout)
        self.alpha = nn.Parameter(torch.zeros(1))


class GateBlend(Blend):
    """Identity start of a gate g: ``y * ((1 - a) + a * g(y))``, exactly y at a = 0, exactly ``y * g(y)`` at a = 1.

    That is the paper's form, but for rounding where a mechanism multiplies by two maps one after the other.
    """

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        # A gate of a wider type than y must not widen the host's map.
        gate = cast(Callable[[Tensor], Tensor], self.attention.gate)(y).to(y.dtype)
        alpha = self.alpha.to(y.dtype)
        return y * ((1 - alpha) + alpha * gate)


class TermBlend(Blend):
    """Identity start of an added term t: ``y + a * t(y)``, exactly y at a = 0, the paper's form at a = 1."""

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        term = cast(Callable[[Tensor], Tensor], self.attention.term)(y).to(y.dtype)
        return y + self.alpha.to(y.dtype) * term


class ScaleBlend(Blend):
    """Identity start of a normalisation whose scale is gated: ``y + a * (g(x) - 1) * (y - shift)``.

    y is what the host's normalisation gives, shift its bias: at a = 1 its scale is multiplied by g, up to rounding.
    """

    def form(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        gate = cast(Callable[[Tensor], Tensor], self.attention.gate)(x)
        scaled = (gate - 1).to(y.dtype) * (y - cast(Tensor, module.bias).to(y.dtype)[:, None, None])
        return y + self.alpha.to(y.dtype) * scaled


class Difference(AttachedEdit):
    """Identity start of a warp: ``y + (warp(y) - unmoved(y))``, the same map read where the warp would not move it.

    Interpolation at the identity is not exact, and a warp of a factor 0 would never learn; the difference is 0 and
    learns. It differs from the paper's warp by that error of interpolation.
    """

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        return y + (self.attention(y) - cast(Callable[[Tensor], Tensor], self.attention.unmoved)(y))


class ConvBlend(Blend):
    """Identity start of attention in a convolution's place: blended into the last channels of the whole convolution.

    ``cat(y[:-d], (1 - a) * y[-d:] + a * attention(x))``, d the attention's channels: exactly the convolution at a = 0,
    at a = 1 the augmented convolution, but for the rounding of a convolution with fewer filters.
    """

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        attended = self.attention(x).to(y.dtype)
        alpha = self.alpha.to(y.dtype)
        keep = y.shape[1] - attended.shape[1]
        blended = (1 - alpha) * y[:, keep:] + alpha * attended
        # Joined to no channels it would lose y's layout in memory.
        return torch.cat((y[:, :keep], blended), dim=1) if keep else blended


class ConvTerm(AttachedEdit):
    """Identity start of a term made from a convolution's input that is zero at first by itself: ``y + t(x)``."""

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        return y + self.attention(x).to(y.dtype)


class Edits(nn.ModuleDict):
    """The edits of one module by mechanism, in the order in which they run. A host's own ModuleDict is never one."""


class Edited(nn.Module):
    """Mixed in before the host's class: the edits before, the host's forward, the edits after, in their order."""

    saccade: Edits

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        edits = [edit for edit in self.saccade.values() if isinstance(edit, AttachedEdit)]
        for edit in edits:
            if edit.before:
                args, kwargs = _with_first(args, kwargs, lambda x, edit=edit: edit(self, x, x))
        y = super().forward(*args, **kwargs)
        x = args[0] if args else next(iter(kwargs.values()), None)
        for edit in edits:
            if not edit.before:
                y = edit(self, x, y)
        return y

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The subclass is made at run time and cannot be found by name: a copy makes it again from the host's class.
        _, _, *state = super().__reduce_ex__(protocol)
        return _blank_edited, (host_class(type(self)),), *state


def _with_first(args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Any], Any]) -> Any:
    """Arguments with the first of them changed."""
    if args:
        return (change(args[0]), *args[1:]), kwargs
    name = next(iter(kwargs))
    return args, kwargs | {name: change(kwargs[name])}


@cache
def edited_class(host: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a host's class whose instances carry edits; it goes by the host's name."""

    def fill(namespace: dict[str, Any]) -> None:
        namespace.update(__module__=host.__module__, __qualname__=host.__qualname__, __doc__=host.__doc__)

    return types.new_class(host.__name__, (Edited, host), exec_body=fill)


def host_class(cls: type[Edited]) -> type[nn.Module]:
    """The host's class behind one made by :func:`edited_class`."""
    return cls.__mro__[cls.__mro__.index(Edited) + 1]


def class_of(module: nn.Module) -> type[nn.Module]:
    """A module's class as the host has it, whether it carries edits or not."""
    return host_class(type(module)) if isinstance(module, Edited) else type(module)


def _blank_edited(host: type[nn.Module]) -> nn.Module:
    cls = edited_class(host)
    return cls.__new__(cls)


def edits_of(module: nn.Module) -> Edits:
    """The edits that a module holds, none for most. Whether they run: ``isinstance(module, Edited)``."""
    child = module._modules.get(CHILD)
    return child if isinstance(child, Edits) else Edits()


def check_place(module: nn.Module, edit: Edit, carried: Sequence[str], *, replaces: bool, force: bool) -> None:
    """Whether an edit can go to a module that carries those named in ``carried``."""
    if edit.attention in carried and not force:
        raise UsageError(
            f"{edit.site!r} carries {edit.attention!r} already; saccade.strip(model) takes it off, "
            "force=True adds another"
        )
    if replaces and carried:
        raise UsageError(
            f"{edit.site!r} carries {', '.join(map(repr, carried))}, which would go with the module that "
            f"{edit.attention!r} replaces; saccade.strip(model), then add {edit.attention!r} first"
        )
    if replaces or isinstance(module, Edited):
        return
    if "forward" in vars(module):
        raise UsageError(
            f"{edit.site!r} has a forward set on the instance, which would bypass an edit; edit another module"
        )
    if hasattr(module, CHILD):
        raise UsageError(f"{edit.site!r} already has an attribute named {CHILD!r}, where edits live")
    cls = type(module)
    own = [name for name in COPYING if getattr(cls, name, None) is not getattr(nn.Module, name, None)]
    # PyTorch's parametrisations copy whatever a module holds.
    if own and not is_parametrized(module):
        raise UsageError(
            f"{edit.site!r} is copied in a way of its own ({cls.__name__}.{own[0]}), which would lose an edit; "
            "edit another module"
        )


def attach(module: nn.Module, attached: AttachedEdit) -> None:
    """Put an edit at the end of those that a module carries; :func:`check_place` says whether it can go there."""
    if not isinstance(module, Edited):
        module.__class__ = edited_class(type(module))
        module.add_module(CHILD, Edits().train(module.training))
    edits, name = edits_of(module), attached.edit.attention
    number = sum(isinstance(edit, AttachedEdit) and edit.edit.attention == name for edit in edits.values())
    edits[f"{name}_{number + 1}" if number else name] = attached


def unattach(module: nn.Module, attached: AttachedEdit) -> None:
    """Take one edit off a module again."""
    edits = edits_of(module)
    for name in [name for name, edit in edits.items() if edit is attached]:
        del edits[name]
    if not edits:
        del module._modules[CHILD]
        module.__class__ = class_of(module)  # pyright: ignore[reportAttributeAccessIssue] # the way back


def runs_its_children(module: nn.Module) -> bool:
    """Whether a module calls whatever children it has, one by one: a child of ours would become one of them."""
    return isinstance(module, nn.Sequential) or _asks_for_children(class_of(module))


@cache
def _asks_for_children(cls: type[nn.Module]) -> bool:
    try:
        source = inspect.getsource(cls.forward)
    except (OSError, TypeError):
        return False  # code without a source file; running once more after an edit will tell
    signs = ("self.children()", "self.named_children()", "self._modules", "self.items()", "self.values()", "in self:")
    return any(sign in source for sign in signs)


def replace(model: nn.Module, new: nn.Module, edit: Edit) -> None:
    """Put a module in another's place. The host's own stays beside it, unregistered, so that strip can return it."""
    host = model.get_submodule(edit.site)
    new.saccade_replaced = (host, edit)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    put(model, host, new)


def replaced_by(module: nn.Module) -> tuple[nn.Module, Edit] | None:
    """The host's module and the edit of a module that stands in its place, or None."""
    return vars(module).get("saccade_replaced")


def detach(model: nn.Module) -> None:
    """Take every edit off, in place."""
    for module in list(model.modules()):
        vars(module).pop(PLAN, None)
        # A conversion (SyncBatchNorm's) can leave the child in a new module of a plain class.
        if edits_of(module):
            del module._modules[CHILD]
        if isinstance(module, Edited):
            module.__class__ = host_class(type(module))  # pyright: ignore[reportAttributeAccessIssue] # the way back
        if (replaced := replaced_by(module)) is not None:
            host, _ = replaced
            like = next(module.parameters())
            put(model, module, host.to(device=like.device, dtype=like.dtype).train(module.training))


def put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in another's place, under every path where a host that shares modules has it."""
    for path in [path for path, module in model.named_modules(remove_duplicate=False) if module is old]:
        model.set_submodule(path, new)
