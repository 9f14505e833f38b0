"""What every variant of a comparison costs: measured before the first trial, while the machine is quiet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from saccade._api import plan_of
from saccade.comparison.record import VariantCost
from saccade.comparison.request import Request, Variant
from saccade.comparison.trial import build_variant
from saccade.data import ImageData
from saccade.nets.places import usual_place
from saccade.profiling.cost import forward, train_step
from saccade.profiling.macs import count_macs
from saccade.profiling.memory import training_bytes
from saccade.profiling.timing import median_ms, threads


def measure_costs(
    request: Request, data: ImageData, variants: Sequence[Variant], hosts: Mapping[str, str] | None = None
) -> dict[str, VariantCost]:
    """Build every variant once, which also finds what cannot work, and measure all in turns with one thread.

    Latency is of one image, the training step of one batch. ``hosts`` are those of variants with another than the
    request's.
    """
    seed, hosts = request.seeds[0], hosts or {}
    models = {each.name: build_variant(request, each, data, seed, hosts.get(each.name)) for each in variants}
    image = torch.zeros(1, *data.shape)
    batch = torch.randn(min(request.settings.batch_size, len(data.train)), *data.shape)
    batch = batch.contiguous(memory_format=torch.channels_last)
    for model in models.values():
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] # as in training
    with threads(1):
        device = torch.device("cpu")
        latency = median_ms({name: forward(model, image) for name, model in models.items()}, device=device)
        step = median_ms({name: train_step(model, batch) for name, model in models.items()}, device=device)
        memory = {name: _peak_mib(model, batch) for name, model in models.items()}
    return {
        variant.name: VariantCost(
            at=_place(variant, models[variant.name]),
            sites=[edit.site for edit in plan_of(models[variant.name]).edits],
            params=sum(parameter.numel() for parameter in models[variant.name].parameters()),
            macs=count_macs(models[variant.name], image),
            latency_ms=latency[variant.name],
            train_step_ms=step[variant.name],
            peak_memory_mib=memory[variant.name],
        )
        for variant in variants
    }


def _peak_mib(model: nn.Module, batch: Tensor) -> float | None:
    peak = training_bytes(model, batch, train_step(model, batch))
    return None if peak is None else peak / 2**20


def _place(variant: Variant, model: nn.Module) -> str | None:
    if variant.attention is None:
        return None
    return ", ".join(variant.at) if variant.at else usual_place(variant.attention, model)[0]
