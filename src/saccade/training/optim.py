"""Optimiser and schedule from their settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from saccade._api import attention_parameters
from saccade._checks import nearest
from saccade.errors import UsageError
from saccade.training.settings import OptimSettings, ScheduleSettings


def make_optimiser(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """The optimiser over the parameters that learn, in groups of one learning rate and weight decay each."""
    groups = parameter_groups(model, settings)
    if settings.name == "sgd":
        momentum = settings.momentum
        # foreach, as CUDA has it by default: the same numbers, on a CPU in two thirds of the time of its step.
        return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, foreach=True)
    eps: dict[str, Any] = {} if settings.eps is None else {"eps": settings.eps}
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, **eps)
    from timm import optim

    known = [str(name) for name in optim.list_optimizers()]  # pyright: ignore[reportPrivateImportUsage]
    if settings.name not in known:
        raise UsageError(f"`optim.name` (={settings.name!r}) is no optimiser of timm{nearest(settings.name, known)}")
    make = optim.create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
    return make(groups, settings.name, lr=settings.lr, momentum=settings.momentum, **eps)


def parameter_groups(model: nn.Module, settings: OptimSettings) -> list[dict]:
    """Groups for an optimiser: host and attention, with and without weight decay; empty ones are left out."""
    ours = set(attention_parameters(model)) if settings.attention_lr is not None else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            lr = settings.attention_lr if parameter in ours and settings.attention_lr is not None else settings.lr
            decayed = settings.decay_vectors or parameter.dim() > 1
            groups.setdefault((lr, settings.weight_decay if decayed else 0.0), []).append(parameter)
    if not groups:
        raise UsageError("the network has no parameter that requires a gradient: there is nothing to train")
    return [{"params": parameters, "lr": lr, "weight_decay": decay} for (lr, decay), parameters in groups.items()]


def make_factor(settings: ScheduleSettings, steps: int) -> Callable[[int], float]:
    """The learning rate's factor at each of ``steps`` steps: a rise over the warm-up's share of them, then half a
    cosine, steps down, an exponential fall, or nothing more."""
    rise = max(1, round(steps * settings.warmup)) if settings.warmup else 0

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        passed = (step - rise) / max(1, steps - rise)
        if settings.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * passed))
        if settings.name == "exponential":
            return settings.final**passed
        return settings.gamma ** sum(step >= round(steps * share) for share in settings.milestones)

    return factor
