"""What every variant of a comparison costs: measured before the first trial, while the machine is quiet."""

from __future__ import annotations

import torch

from saccade._api import plan_of
from saccade.comparison.record import VariantCost
from saccade.comparison.request import Request
from saccade.comparison.trial import build_variant, places
from saccade.data import ImageData
from saccade.profiling.cost import forward, train_step
from saccade.profiling.macs import count_macs
from saccade.profiling.timing import median_ms, threads


def measure_costs(request: Request, data: ImageData) -> dict[str, VariantCost]:
    """Build every variant once, which also finds what cannot work, and measure all in turns with one thread.

    Latency is of one image, the training step of one batch.
    """
    seed = request.seeds[0]
    models = {variant.name: build_variant(request, variant, data, seed) for variant in request.variants}
    image = torch.zeros(1, *data.shape)
    batch = torch.randn(min(request.settings.batch_size, len(data.train)), *data.shape)
    batch = batch.contiguous(memory_format=torch.channels_last)
    for model in models.values():
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] # as in training
    with threads(1):
        device = torch.device("cpu")
        latency = median_ms({name: forward(model, image) for name, model in models.items()}, device=device)
        step = median_ms({name: train_step(model, batch) for name, model in models.items()}, device=device)
    return {
        variant.name: VariantCost(
            at=", ".join(places(variant, models[variant.name])) or None,
            sites=[edit.site for edit in plan_of(models[variant.name]).edits],
            params=sum(parameter.numel() for parameter in models[variant.name].parameters()),
            macs=count_macs(models[variant.name], image),
            latency_ms=latency[variant.name],
            train_step_ms=step[variant.name],
        )
        for variant in request.variants
    }
