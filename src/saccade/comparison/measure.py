"""What every variant of a comparison costs: measured before the first trial, while the machine is quiet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from saccade._api import plan_of
from saccade.comparison.record import VariantCost
from saccade.comparison.request import Request, Variant
from saccade.comparison.trial import build_variant
from saccade.data import ImageData
from saccade.nets.places import usual_place
from saccade.profiling.cost import Cost, measure
from saccade.profiling.timing import threads

BUDGET_S = 0.5  # seconds for each of a variant's times


def measure_costs(
    request: Request, data: ImageData, variants: Sequence[Variant], hosts: Mapping[str, str] | None = None
) -> dict[str, VariantCost]:
    """Build every variant once, which also finds what cannot work, and measure all in turns with one thread.

    ``hosts`` are those of variants with another than the request's.
    """
    seed, hosts = request.seeds[0], hosts or {}
    models = {each.name: build_variant(request, each, data, seed, hosts.get(each.name)) for each in variants}
    for model in models.values():
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] # as in training
    batch = torch.randn(min(request.settings.batch_size, len(data.train)), *data.shape)
    batch = batch.contiguous(memory_format=torch.channels_last)
    with threads(1):
        costs = measure(models, batch, device="cpu", budget_s=BUDGET_S)
    return {each.name: _measured(each, models[each.name], costs[each.name]) for each in variants}


def _measured(variant: Variant, model: nn.Module, cost: Cost) -> VariantCost:
    at = (
        ", ".join(variant.at) if variant.at else usual_place(variant.attention, model)[0] if variant.attention else None
    )
    step = cost.train_step
    assert step is not None, "training steps were measured"
    return VariantCost(
        at=at,
        sites=[edit.site for edit in plan_of(model).edits],
        params=cost.params,
        state_bytes=cost.state_bytes,
        macs=cost.macs_per_image,
        latency_ms=cost.latency_one.p50,
        latency_p95_ms=cost.latency_one.p95,
        images_per_s=cost.throughput,
        train_step_ms=step.p50,
        peak_memory_mib=cost.peak_memory_mib,
    )
