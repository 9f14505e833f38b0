"""Where an edit can go: modules chosen by path or glob, with the shapes of what flows through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from saccade._checks import nearest
from saccade.errors import UsageError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """A module of a host and the maps that it was seen to take and give, each (B, C, H, W)."""

    path: str
    module: nn.Module
    in_shape: Shape
    out_shape: Shape


def match_paths(model: nn.Module, at: str | Sequence[str]) -> list[str]:
    """Paths of modules that ``at`` names: dotted paths, or globs in which ``*`` also matches dots.

    A pattern that matches nothing is an error with the nearest paths.
    """
    patterns = [at] if isinstance(at, str) else list(at)
    if not patterns:
        raise UsageError("`at` (=[]) must name at least one module")
    paths = [path for path, _ in model.named_modules() if path and "saccade" not in path.split(".")]
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
    paths = [_last_of_sequential(model, path) for path in paths]
    modules = {path: model.get_submodule(path) for path in dict.fromkeys(paths)}
    example = default_example(model) if example_input is None else example_input
    seen = _watch(model, modules, example)
    return [_site(path, module, seen.get(path)) for path, module in modules.items()]


def default_example(model: nn.Module) -> Tensor:
    """One image of the size that the host names in ``pretrained_cfg`` (as timm's do), else 3 x 224 x 224."""
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else getattr(config, "input_size", None)
    parameter = next(model.parameters(), torch.empty(0))
    return torch.zeros(1, *(size or (3, 224, 224)), device=parameter.device, dtype=parameter.dtype)


def _last_of_sequential(model: nn.Module, path: str) -> str:
    try:
        module = model.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in model.named_modules() if name]
        raise UsageError(f"the host has no module at {path!r}{nearest(path, known)}") from None
    while isinstance(module, nn.Sequential):
        members = [name for name in module._modules if name != "saccade"]
        if not members:
            raise UsageError(f"{path!r} is an empty nn.Sequential: nothing flows through a module there")
        path, module = f"{path}.{members[-1]}", module[len(members) - 1]
    return path


def _watch(model: nn.Module, modules: dict[str, nn.Module], example: Any) -> dict[str, tuple[Any, Any]]:
    seen: dict[str, tuple[Any, Any]] = {}

    def watcher(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen[path] = (args[0] if args else None, output)

        return hook

    handles = [module.register_forward_hook(watcher(path)) for path, module in modules.items()]
    try:
        with _eval_mode(model), torch.no_grad():
            try:
                _forward_on_meta(model, example)
            except (RuntimeError, NotImplementedError):
                seen.clear()
                _forward_where_it_is(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _forward_on_meta(model: nn.Module, example: Any) -> None:
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    on_meta = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    torch.func.functional_call(model, on_meta, (example.to("meta"),))


def _forward_where_it_is(model: nn.Module, example: Any) -> None:
    try:
        model(example)
    except (RuntimeError, NotImplementedError) as error:
        shape = f"of shape {tuple(example.shape)}" if isinstance(example, Tensor) else f"(={example!r})"
        raise UsageError(
            f"{type(model).__name__} cannot be run on an example {shape}: {error}; "
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


def _site(path: str, module: nn.Module, seen: tuple[Any, Any] | None) -> Site:
    if seen is None:
        raise UsageError(f"{path!r} was not called when the host ran, so an edit there would do nothing")
    taken, given = seen
    if not (isinstance(given, Tensor) and given.dim() == 4):
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise UsageError(f"{path!r} does not give a map of shape (B, C, H, W) but {shape}; choose a module that does")
    in_shape = tuple(taken.shape) if isinstance(taken, Tensor) else ()
    return Site(path, module, in_shape, tuple(given.shape))
