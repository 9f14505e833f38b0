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
from keyword import iskeyword
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from saccade.errors import UsageError
from saccade.surgery.forms import AttachedEdit
from saccade.surgery.plan import Edit, Mark

CHILD = "saccade"  # of a module: its edits
REPLACED = "saccade_replaced"  # a child of a module in another's place
PLAN = "saccade_plan"  # an attribute of an augmented model: the marks of the edits that it was given
COPYING = ("__deepcopy__", "__reduce__", "__reduce_ex__")


class Edits(nn.ModuleDict):
    """The edits of one module by mechanism, in the order in which they run. A host's own ModuleDict is never one."""


class Replacement(nn.Module):
    """Of a module in another's place: the edit, and the host's own module, which comes back by strip.

    That is no child, since its weights are no part of the network meanwhile.
    """

    def __init__(self, edit: Edit, host: nn.Module, count: int) -> None:
        super().__init__()
        self.mark = Mark(edit)
        self.kept = (host,)
        self.count = count

    def extra_repr(self) -> str:
        return f"{self.mark.edit}, {self.count:+,} parameters"


class Edited(nn.Module):
    """Mixed in before the host's class: the edits before, the host's forward, the edits after, in their order."""

    saccade: Edits

    def __init_subclass__(cls, **_: Any) -> None:
        """Nothing: a host's class that registers its subclasses is not to know of ours."""

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
        made, args, *state = super().__reduce_ex__(protocol)
        if Edited not in type(self).__bases__:
            return made, args, *state  # a class that another library put above ours
        # The subclass is made at run time and cannot be found by name: a copy makes it again from the host's class.
        return _blank_edited, (class_of(self),), *state


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


def class_of(module: nn.Module) -> type[nn.Module]:
    """A module's class as the host has it, whether it carries edits or not."""
    cls = type(module)
    return cls.__mro__[cls.__mro__.index(Edited) + 1] if issubclass(cls, Edited) else cls


def _without_edits(cls: type) -> type:
    """The class of a module whose edits come off.

    One that another library put above ours since (a parametrisation's) is made again above the host's.
    """
    if not issubclass(cls, Edited):
        return cls
    if Edited in cls.__bases__:
        return cls.__bases__[-1]
    own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    bases = tuple(_without_edits(base) for base in cls.__bases__)
    return types.new_class(cls.__name__, bases, exec_body=lambda body: body.update(own))


def _blank_edited(host: type[nn.Module]) -> nn.Module:
    cls = edited_class(host)
    return cls.__new__(cls)


def edits_of(module: nn.Module) -> Edits:
    """The edits that a module holds, none for most. Whether they run: ``isinstance(module, Edited)``."""
    child = _child(module, CHILD)
    return child if isinstance(child, Edits) else Edits()


def _child(module: nn.Module, name: str) -> nn.Module | None:
    return module._modules[name] if name in module._modules else None  # noqa: SIM401  TorchScript's has no `get`


def check_place(module: nn.Module, edit: Edit, carried: Sequence[Edit], *, replaces: bool, force: bool) -> None:
    """Whether an edit can go to a module that carries others."""
    if edit.place in [other.place for other in carried] and not force:
        raise UsageError(
            f"{edit.site!r} carries {edit.attention!r} already; saccade.strip(model) takes it off, "
            "force=True adds another"
        )
    if replaces and carried:
        raise UsageError(
            f"{edit.site!r} carries {', '.join(repr(other.attention) for other in carried)}, which would go with the "
            f"module that {edit.attention!r} replaces; saccade.strip(model), then add {edit.attention!r} first"
        )
    if replaces and not edit.site:
        raise UsageError(
            f"{edit.attention!r} takes the place of a module within the model, and here that is the model itself; "
            "give it as nn.Sequential(model), or take start='identity', which keeps it"
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
    # torch.export writes paths into code, where `nonlocal` and `lambda` are no names.
    plain = f"{name}_" if iskeyword(name) else name
    edits[f"{name}_{number + 1}" if number else plain] = attached


def unattach(module: nn.Module, attached: AttachedEdit) -> None:
    """Take one edit off a module again."""
    edits = edits_of(module)
    for name in [name for name, edit in edits.items() if edit is attached]:
        del edits[name]
    if not edits:
        del module._modules[CHILD]
        module.__class__ = _without_edits(type(module))


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
    kept = Replacement(edit, host, parameter_count(new) - parameter_count(host))
    new.add_module(REPLACED, kept.train(new.training))
    put(model, host, new)


def parameter_count(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def replaced_by(module: nn.Module) -> tuple[nn.Module, Edit] | None:
    """The host's module and the edit of a module that stands in its place, or None."""
    child = _child(module, REPLACED)
    return (child.kept[0], child.mark.edit) if isinstance(child, Replacement) else None


def set_aside(model: nn.Module) -> dict[str, nn.Module]:
    """The host's modules in whose place others stand, by a path that is no other module's."""
    replaced = {path: replaced_by(module) for path, module in model.named_modules()}
    return {f"{path}.{REPLACED}": found[0] for path, found in replaced.items() if found is not None}


def marks_of(module: nn.Module) -> list[tuple[Mark, int]]:
    """The mark of every edit that a module holds, first that of its own place, and the parameters that each brought."""
    own = _child(module, REPLACED)
    held = [(own.mark, own.count)] if isinstance(own, Replacement) else []
    attached = [edit for edit in edits_of(module).values() if isinstance(edit, AttachedEdit)]
    return held + [(edit.mark, parameter_count(edit)) for edit in attached]


def detach(model: nn.Module) -> None:
    """Take every edit off, in place."""
    for module in list(model.modules()):
        vars(module).pop(PLAN, None)
        for mark, _ in marks_of(module):
            mark.stripped = True
        # A conversion (SyncBatchNorm's) can leave the child in a new module of a plain class.
        if edits_of(module):
            del module._modules[CHILD]
        if isinstance(module, Edited):
            module.__class__ = _without_edits(type(module))
        if (replaced := replaced_by(module)) is not None:
            host, _ = replaced
            like = next(module.parameters())
            put(model, module, host.to(device=like.device, dtype=like.dtype).train(module.training))


def put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in another's place, under every path where a host that shares modules has it."""
    for path in [path for path, module in model.named_modules(remove_duplicate=False) if module is old]:
        model.set_submodule(path, new)
