"""Which name builds a network again: of timm, of torchvision, of our own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from saccade.nets.hosts import NETS, Host
from saccade.surgery import detach, twin

PLAIN = (bool, int, float, str, tuple, type(None))
# States of a run, no part of what a network computes.
PASSING = ("training", "grad_checkpointing", "_is_torch_compile")


def recognise(model: nn.Module) -> Host | None:
    """The name and options that build the host of an (augmented) network again, or None.

    A name counts only if what it builds has the same modules, with the same plain attributes (sizes, strides, rates)
    and the same shapes of weights, so that the same weights compute the same.
    """
    host = twin(model, lambda tensor: tensor.detach().to("meta"))
    detach(host)
    told = _told(host)
    return next(
        (name for name in _candidates(host) if (built := _built(name)) is not None and _told(built) == told), None
    )


def _candidates(host: nn.Module) -> Iterator[Host]:
    library, _, _ = type(host).__module__.partition(".")
    if library == "timm":
        yield from _of_timm(host)
    elif library == "torchvision":
        yield from _of_torchvision(host)
    else:
        for name, net in NETS.items():
            if type(host) is net:
                yield Host("saccade", name, dict(host.config))  # pyright: ignore[reportArgumentType, reportCallIssue]


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

    heads = [m for m in host.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    last = heads[-1] if heads else None
    classes = last.out_features if isinstance(last, nn.Linear) else getattr(last, "out_channels", None)
    for name in models.list_models():
        if inspect.unwrap(models.get_model_builder(name)).__module__ == type(host).__module__:
            yield Host("torchvision", name)
            yield Host("torchvision", name, {"num_classes": classes})


def _built(name: Host) -> nn.Module | None:
    # A constructor draws weights; the caller's generator is not ours to move.
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return name.build()
        except Exception:  # noqa: BLE001  a constructor that reads values cannot run on meta, in any way of failing
            pass
        try:
            return name.build()
        except Exception:  # noqa: BLE001  not every guess can be built
            return None


def _told(model: nn.Module) -> list[Any]:
    """All that tells a network's function but the values of its weights."""
    told: list[Any] = []
    seen: dict[int, int] = {}  # what is there twice has the number of its first place
    for path, module in model.named_modules(remove_duplicate=False):
        own = {key: value for key, value in vars(module).items() if key not in PASSING}
        plain = {key: value for key, value in own.items() if isinstance(value, PLAIN)}
        hooks = {key: len(value) for key, value in own.items() if key.endswith("_hooks")}
        tensors = {**module._parameters, **module._buffers}
        shapes = {
            key: None if value is None else (tuple(value.shape), seen.setdefault(id(value), len(seen)))
            for key, value in tensors.items()
        }
        told.append((path, type(module), sorted(own), plain, hooks, shapes, seen.setdefault(id(module), len(seen))))
    return told
