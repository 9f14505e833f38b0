"""The one forward of a host that shows its maps: on what, on which device, and that it leaves no trace in the host."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils._pytree import tree_leaves

from saccade.errors import UsageError
from saccade.surgery.attach import Edits, replaced_by
from saccade.surgery.trace import Trace, trace


def check_host(model: Any) -> None:
    """What cannot be edited, or would not notice an edit, is an error that says what to do."""
    check_module(model)
    for path, module in model.named_modules():
        where = f"`model` has at {path!r}" if path else "`model` is"
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(f"{where} a ScriptModule: TorchScript code takes no edits; script after augmenting")
        if isinstance(module, LazyModuleMixin) and cast(Any, module).has_uninitialized_params():
            raise UsageError(
                f"{where} a {type(module).__name__} without weights yet; run `model(example)` once, then augment"
            )


def check_module(model: object) -> None:
    """The model must be one, and not code made of one."""
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise UsageError(
            f"`model` is a {type(model).__name__}: TorchScript code takes no edits. Give the nn.Module that it was "
            "made from, and script or trace after"
        )
    if not isinstance(model, nn.Module):
        raise UsageError(f"`model` (={model!r}) must be an nn.Module")


def default_examples(model: nn.Module) -> tuple[list[Tensor], str]:
    """Images of the size that the host names in ``pretrained_cfg`` (as timm's do), else of 224 x 224, and why.

    The first has the channels that the convolution takes that was defined first; where that is not the one which runs
    first, three are the next guess.
    """
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else getattr(config, "input_size", None)
    stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels, height, width = size or (3, 224, 224)
    like = next(model.parameters(), torch.empty(0))
    guesses = dict.fromkeys((channels if stem is None else stem.in_channels, 3))
    images = [torch.zeros(1, guess, height, width, device=like.device, dtype=like.dtype) for guess in guesses]
    return images, "the host's pretrained_cfg" if size else "the default; give `example_input` for another"


def arguments(example_input: Any) -> tuple[Any, ...]:
    """A tuple is what the host's forward takes, one by one; anything else, also a named tuple, is its one argument."""
    return example_input if type(example_input) is tuple else (example_input,)


def trace_host(model: nn.Module, args: tuple[Any, ...]) -> Trace:
    """One forward of a copy of the host in eval mode on the meta device, where no number is computed.

    Where the host cannot run there (its code looks at values), on its own device. The host is not touched: what its
    forward keeps, it keeps in the copy. Nor are the caller's hooks called: the copy has those forward hooks alone that
    were copied with it, objects such as PyTorch's weight norm, and not functions, which would reach what is the
    caller's.
    """
    try:
        copied = _without_callers_hooks(twin(model, lambda tensor: tensor.detach().to("meta")), model)
        return trace(copied, host_modules(copied), map_tensors(args, lambda tensor: tensor.to("meta")))
    except Exception:  # noqa: BLE001  a host that cannot run without numbers may fail in any way
        return _trace_where_it_is(model, args)


def map_tensors(value: Any, change: Any) -> Any:
    """A host's input with its tensors changed: a tensor, or lists, tuples and dicts of tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(entry, change) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [map_tensors(entry, change) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def twin(model: nn.Module, stand_in: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of the model in eval mode with a stand-in for every tensor that a module holds.

    What a module holds and nothing can copy (a lock, an open file), the copy shares.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        # Also what a forward keeps in attributes, lists and dicts: deepcopy refuses a tensor that has a history.
        for tensor in tree_leaves(vars(module)):
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                new = stand_in(tensor)
                parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(new, requires_grad=False) if parameter else new
    try:
        return copy.deepcopy(model, dict(memo)).eval()
    except Exception:  # noqa: BLE001  what refuses to be copied may do so in any way
        return copy.deepcopy(model, memo | _not_copied(model, memo)).eval()


def _not_copied(model: nn.Module, memo: dict[int, Any]) -> dict[int, Any]:
    """What modules hold beside tensors and modules and cannot be copied, as a memo that has deepcopy share it."""
    shared: dict[int, Any] = {}
    for module in model.modules():
        for held in tree_leaves(vars(module)):
            if isinstance(held, nn.Module):
                continue
            try:
                copy.deepcopy(held, dict(memo))
            except Exception:  # noqa: BLE001
                shared[id(held)] = held
    return shared


def _without_callers_hooks(copied: nn.Module, model: nn.Module) -> nn.Module:
    callers = {id(hook) for module in model.modules() for hooks in _hooks(module) for hook in hooks.values()}
    for module in copied.modules():
        for hooks in _hooks(module):
            for key in [key for key, hook in hooks.items() if id(hook) in callers]:
                del hooks[key]
    return copied


def _hooks(module: nn.Module) -> tuple[dict[int, Any], dict[int, Any]]:
    return module._forward_hooks, module._forward_pre_hooks


def _trace_where_it_is(model: nn.Module, args: tuple[Any, ...]) -> Trace:
    like = next(model.parameters(), None)
    try:
        # Weights are read, never written, so a copy can share them; buffers may be written.
        copied = twin(model, lambda tensor: tensor.detach() if isinstance(tensor, nn.Parameter) else tensor.clone())
        copied = _without_callers_hooks(copied, model)
        args = args if like is None else map_tensors(args, lambda tensor: tensor.to(like.device))
        return trace(copied, host_modules(copied), args)
    except Exception as error:
        shown = ", ".join(_described(arg) for arg in args)
        raise UsageError(
            f"{type(model).__name__} cannot be run on an example of {shown}: {type(error).__name__}: {error}; "
            "give one that fits as `example_input` (a tuple is taken as several arguments)"
        ) from error


def host_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The host's modules by their first path, without attention: neither what edits added nor the inside of what they
    put in a convolution's place."""
    return dict(_walk(model, "", set()))


def _walk(module: nn.Module, path: str, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    if module in seen:
        return
    seen.add(module)
    yield path, module
    if replaced_by(module) is None:
        for name, child in module._modules.items():
            if child is not None and not isinstance(child, Edits):
                yield from _walk(child, f"{path}.{name}" if path else name, seen)


def _described(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
