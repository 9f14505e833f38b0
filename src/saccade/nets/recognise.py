"""Which name builds a network again: of timm, of torchvision, of our own."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from saccade.nets.hosts import NETS, Host
from saccade.surgery import detach, twin

# What == compares as it is; a set has no order to go by.
PLAIN = (bool, int, float, complex, str, bytes, type(None), type, set, frozenset)
# States of a run, and what timm notes of where a network comes from and Lightning of how it was compiled: no part of
# what it computes.
STATES = {"training", "grad_checkpointing", "_is_torch_compile"}
NOTES = {"pretrained_cfg", "default_cfg", "feature_info", "_model_args", "_compile_kwargs"}


def recognise(model: nn.Module) -> Host | None:
    """The name and options that build the host of an (augmented) network again, or None.

    A name counts only if what it builds has the same modules, with the same attributes (sizes, strides, rates, lists,
    functions, objects) and the same shapes of weights, so that the same weights compute the same. A network with an
    attribute that cannot be compared has no name.
    """
    host = twin(model, torch.Tensor.detach)
    detach(host)
    try:
        told = _Telling(host).tell(host)
    except Exception:  # noqa: BLE001  what stands in an attribute may refuse to be read in any way
        return None
    return next((name for name in _candidates(host) if _told_of(name) == told), None)


def _candidates(host: nn.Module) -> Iterator[Host]:
    library, _, _ = type(host).__module__.partition(".")
    ours = next((name for name, net in NETS.items() if type(host) is net or vars(host).get("made_by") == name), None)
    if ours is not None:
        yield _of_ours(ours, host)
    elif library == "timm":
        yield from _of_timm(host)
    elif library == "torchvision":
        yield from _of_torchvision(host)


def _of_ours(name: str, host: Any) -> Host:
    return Host("saccade", name, {**host.config, "num_classes": host.num_classes})


def _of_timm(host: Any) -> Iterator[Host]:
    config = getattr(host, "pretrained_cfg", None) or {}
    name = config.get("architecture")
    if name:
        first = config.get("first_conv")
        stem = host.get_submodule(first) if isinstance(first, str) else None
        channels = {"in_chans": stem.in_channels} if isinstance(stem, nn.Conv2d) else {}
        yield Host("timm", name)
        yield Host("timm", name, {"num_classes": getattr(host, "num_classes", 1000), **channels})


def _of_torchvision(host: nn.Module) -> Iterator[Host]:
    from torchvision import models

    classes = _class_counts(host)
    for name in models.list_models():
        if inspect.unwrap(models.get_model_builder(name)).__module__ == type(host).__module__:
            yield Host("torchvision", name)
            yield from (Host("torchvision", name, {"num_classes": count}) for count in classes)


def _class_counts(host: nn.Module) -> list[int]:
    """How many classes a network may have, the likeliest first: as wide as its last layers, or what a head says.

    The last layer alone does not tell: a detector's gives four numbers for each class.
    """
    modules = list(host.modules())
    said = [vars(module).get(name) for module in modules for name in ("num_classes", "num_columns")]
    linear = [module.out_features for module in modules if isinstance(module, nn.Linear)]
    convolutions = [module.out_channels for module in modules if isinstance(module, nn.Conv2d)]
    counts = [count for count in (*said, *(linear[-2:] or convolutions[-1:])) if isinstance(count, int)]
    return list(dict.fromkeys(reversed(counts)))


def _told_of(name: Host) -> Any:
    """All that tells the network of a name, or None if it cannot be built: not every guess can."""
    # A constructor draws weights; the caller's generator is not ours to move.
    with torch.random.fork_rng(devices=[]):
        for device in ("meta", "cpu"):  # without numbers where nothing asks for one
            try:
                with torch.device(device):
                    built = name.build()
                return _Telling(built).tell(built)
            except Exception:  # noqa: BLE001  a constructor that reads values fails on meta in any way
                continue
    return None


class _Telling:
    """All that tells a network's function but the values that its state holds, as values that == compares."""

    def __init__(self, model: nn.Module) -> None:
        self.state = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
        # What is there twice has the number of its first place. Kept, so that no other object takes its id.
        self.seen: dict[int, tuple[int, Any]] = {}

    def tell(self, value: Any) -> Any:
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, tuple):
            return type(value), [self.tell(entry) for entry in value]
        if id(value) in self.seen:
            number, _ = self.seen[id(value)]
            return "seen", number
        self.seen[id(value)] = len(self.seen), value
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        return self._object(value)

    def _tensor(self, tensor: Tensor) -> Any:
        # A file holds the values of the state, and of nothing else.
        return tuple(tensor.shape), None if id(tensor) in self.state else (tensor.dtype, tensor.tolist())

    def _module(self, module: nn.Module) -> Any:
        # Hooks go by numbers that no two networks share.
        own = {
            name: list(value.values()) if "_hooks" in name and isinstance(value, dict) else value
            for name, value in vars(module).items()
            if name not in STATES | NOTES
        }
        return type(module), [(name, self.tell(own[name])) for name in sorted(own)]

    def _function(self, function: types.FunctionType) -> Any:
        closure = [self.tell(cell.cell_contents) for cell in function.__closure__ or ()]
        defaults = self.tell((function.__defaults__, function.__kwdefaults__))
        return function.__module__, function.__code__, defaults, closure

    def _object(self, value: Any) -> Any:
        """Anything else as pickle would take it apart: what makes it, its state, its entries."""
        made = value.__reduce_ex__(4)
        if isinstance(made, str):
            return value  # one of a kind, such as torch.float32
        make, given, state, entries, pairs, *_ = (*made, None, None, None)
        return [self.tell(part) for part in (make, given, state, tuple(entries or ()), tuple(pairs or ()))]
