"""The host's own parameters and checkpoints in an augmented network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from saccade.errors import UsageError
from saccade.surgery.attach import CHILD, edits_of, replaced_by
from saccade.surgery.example import check_module

Take = Callable[[nn.Module, nn.Module], None]


def attention_names(model: nn.Module) -> set[str]:
    """Names of the parameters and buffers that edits brought; of a module in another's place, all."""
    check_module(model)
    names: set[str] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        brought: list[tuple[str, nn.Module]] = [(f"{prefix}{CHILD}.", edits_of(module))] if edits_of(module) else []
        if replaced_by(module) is not None:
            brought.append((prefix, module))
        names |= {f"{at}{name}" for at, part in brought for name in part.state_dict(keep_vars=True)}
    return names


def load_host_state(model: nn.Module, state: Mapping[str, Tensor], take: Take) -> list[str]:
    """Load the plain host's state; ``take`` gives a module what fits of the module in whose place it stands.

    Nothing is loaded before everything is known to fit. Returns the keys that only the augmented network has.
    """
    attention = attention_names(model)
    ours = model.state_dict(keep_vars=True)
    wanted: dict[str, Tensor] = {name: tensor for name, tensor in ours.items() if name not in attention}
    replaced = {path: (module, replaced_by(module)) for path, module in model.named_modules()}
    hosts = {path: (module, found[0]) for path, (module, found) in replaced.items() if found is not None}
    for path, (_, host) in hosts.items():
        wanted |= {f"{path}.{name}": tensor for name, tensor in host.state_dict(keep_vars=True).items()}
    _check_same(wanted, state)
    model.load_state_dict({name: state[name] for name in ours if name not in attention}, strict=False)
    for path, (module, host) in hosts.items():
        host.load_state_dict({name: state[f"{path}.{name}"] for name in host.state_dict()})
        take(module, host)
    return [name for name in ours if name in attention]


def _check_same(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing, unknown = [n for n in wanted if n not in state], [n for n in state if n not in wanted]
    if missing or unknown:
        told = [f"the checkpoint lacks {', '.join(missing[:5])}"] * bool(missing)
        told += [f"the host has no {', '.join(unknown[:5])}"] * bool(unknown)
        raise UsageError(
            f"`state` is no checkpoint of this host: {'; '.join(told)} ({len(missing)} and {len(unknown)} in all)"
        )
    for name, tensor in wanted.items():
        if tensor.shape != state[name].shape:
            raise UsageError(
                f"`state` has {name!r} of shape {tuple(state[name].shape)}, the host of {tuple(tensor.shape)}"
            )
