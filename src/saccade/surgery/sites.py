"""Where an edit can go: modules chosen by path or glob, with the shapes of what flows through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn

from saccade._checks import nearest
from saccade.errors import UsageError
from saccade.surgery.attach import Edits

Shape = tuple[int, ...]
Call = tuple[Shape | str, Shape | str]  # of what a module took and gave; of what is no tensor, the type's name


@dataclass(frozen=True)
class Site:
    """A module of a host and the maps that it was seen to take and give, each (B, C, H, W).

    ``path`` is the module's first where a host that shares modules has it under several. Of several calls the one with
    the largest map counts: relative tables of that size are read on the smaller ones without interpolation.
    """

    path: str
    module: nn.Module
    in_shape: Shape
    out_shape: Shape

    @property
    def in_size(self) -> tuple[int, int]:
        return cast(tuple[int, int], self.in_shape[-2:])

    @property
    def out_size(self) -> tuple[int, int]:
        return cast(tuple[int, int], self.out_shape[-2:])


def match_paths(model: nn.Module, at: str | Sequence[str]) -> list[str]:
    """Paths of modules that ``at`` names: dotted paths, or globs in which ``*`` also matches dots.

    A pattern that matches nothing is an error with the nearest paths. Attention attached before is never matched.
    """
    patterns = [at] if isinstance(at, str) else at
    if not isinstance(patterns, list | tuple) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f"`at` (={at!r}) must be a module's path, a glob such as '*.bn2', or a list of those")
    if not patterns:
        raise UsageError(f"`at` (={at!r}) must name at least one module")
    paths = list(_paths(model))
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [path for path in paths if path == pattern or fnmatchcase(path, pattern)]
        if not found:
            shown = ", ".join(repr(path) for path in paths[-8:])
            raise UsageError(
                f"`at` (={pattern!r}) matches no module of {type(model).__name__}{nearest(pattern, paths)}. "
                f"It has {len(paths)} modules, the last ones {shown}; name a path or a glob such as '*.bn2'"
            )
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def resolve_sites(model: nn.Module, paths: Sequence[str], example_input: Any = None) -> list[Site]:
    """One forward of the host on an example, watching the named modules.

    A container (``nn.Sequential``) stands for its last member, since a child added to it would become a layer of it.
    The forward runs in eval mode on the meta device, where no number is computed, or where the host cannot run there,
    on its own device; the host's weights and buffers are not touched.
    """
    first = {module: path for path, module in model.named_modules()}
    modules = {first[module]: module for module in (_last_of_sequential(model, path) for path in paths)}
    example = default_example(model) if example_input is None else example_input
    calls = _watch(model, modules, example)
    return [_site(path, module, calls[path]) for path, module in modules.items()]


def default_example(model: nn.Module) -> Tensor:
    """One image of the size that the host names in ``pretrained_cfg`` (as timm's do), else 3 x 224 x 224."""
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else getattr(config, "input_size", None)
    parameter = next(model.parameters(), torch.empty(0))
    return torch.zeros(1, *(size or (3, 224, 224)), device=parameter.device, dtype=parameter.dtype)


def _paths(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Every path of the host's modules, also the further ones of shared modules, without attention attached to them."""
    for name, child in module._modules.items():
        if child is not None and not isinstance(child, Edits):
            yield f"{prefix}{name}"
            yield from _paths(child, f"{prefix}{name}.")


def _last_of_sequential(model: nn.Module, path: str) -> nn.Module:
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise UsageError(f"the host has no module at {path!r}{nearest(path, _paths(model))}") from None
    while isinstance(module, nn.Sequential):
        if not len(module):
            raise UsageError(f"{path!r} is an empty nn.Sequential: nothing flows through a module there")
        path, module = f"{path}.{list(module._modules)[-1]}", module[-1]
    return module


def _watch(model: nn.Module, modules: dict[str, nn.Module], example: Any) -> dict[str, list[Call]]:
    calls: dict[str, list[Call]] = {path: [] for path in modules}

    def watcher(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls[path].append((_shape(args[0] if args else None), _shape(output)))

        return hook

    handles = [module.register_forward_hook(watcher(path)) for path, module in modules.items()]
    try:
        with _eval_mode(model), torch.no_grad():
            try:
                _forward_on_meta(model, example)
            except Exception:  # noqa: BLE001  a host that cannot run without numbers may fail in any way
                for seen in calls.values():
                    seen.clear()
                _forward_where_it_is(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _forward_on_meta(model: nn.Module, example: Any) -> None:
    # Each slot of each module once: functional_call swaps a slot named twice (a shared module's) twice, too, and then
    # leaves the stand-in there. A tensor in two slots (tied weights) has one stand-in.
    stand_ins: dict[Tensor, Tensor] = {}
    state: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                if tensor not in stand_ins:
                    stand_ins[tensor] = tensor.detach().to("meta")
                state[f"{path}.{name}" if path else name] = stand_ins[tensor]
    torch.func.functional_call(model, state, (_on_meta(example),), tie_weights=False)


def _on_meta(value: Any) -> Any:
    """A host's input without its numbers: a tensor, or lists, tuples and dicts of tensors."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, dict):
        return {key: _on_meta(entry) for key, entry in value.items()}
    return type(value)(map(_on_meta, value)) if isinstance(value, list | tuple) else value


def _forward_where_it_is(model: nn.Module, example: Any) -> None:
    try:
        model(example)
    except Exception as error:
        kind = f"shape {tuple(example.shape)}" if isinstance(example, Tensor) else f"type {type(example).__name__}"
        raise UsageError(
            f"{type(model).__name__} cannot be run on an example of {kind}: {type(error).__name__}: {error}; "
            "give one that fits as `example_input`"
        ) from error


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _shape(value: Any) -> Shape | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _site(path: str, module: nn.Module, calls: list[Call]) -> Site:
    if not calls:
        raise UsageError(f"{path!r} was not called when the host ran, so an edit there would do nothing")
    maps: list[tuple[Shape, Shape]] = []
    for taken, given in calls:
        if isinstance(given, str) or len(given) != 4:
            raise UsageError(
                f"{path!r} does not give a map of shape (B, C, H, W) but {given}; choose a module that does"
            )
        maps.append((() if isinstance(taken, str) else taken, given))
    channels = sorted({given[1] for _, given in maps})
    if len(channels) > 1:
        raise UsageError(
            f"{path!r} is called {len(calls)} times and gives maps of {' and '.join(map(str, channels))} channels; "
            "an edit serves one number of them: choose another module"
        )
    in_shape, out_shape = max(maps, key=lambda call: call[1][2] * call[1][3])
    return Site(path, module, in_shape, out_shape)
