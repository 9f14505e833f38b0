"""What every variant of a comparison costs: measured before the first trial, while the machine is quiet."""

from __future__ import annotations

import torch
from torch import nn

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
    facts = {name: _facts(model, image) for name, model in models.items()}
    with threads(1):
        device = torch.device("cpu")
        latency = median_ms({name: forward(model, image) for name, model in models.items()}, device=device)
        step = median_ms({name: train_step(model, _channels_last(batch)) for name, model in models.items()}, device=device)
    return {
        variant.name: VariantCost(
            at=", ".join(places(variant, models[variant.name])) or None,
            latency_ms=latency[variant.name],
            train_step_ms=step[variant.name],
            **facts[variant.name],
        )
        for variant in request.variants
    }


def _facts(model: nn.Module, image: torch.Tensor) -> dict[str, object]:
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] # as in training
    return {
        "sites": [edit.site for edit in plan_of(model).edits],
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "macs": count_macs(model, image),
    }


def _channels_last(batch: torch.Tensor) -> torch.Tensor:
    return batch.contiguous(memory_format=torch.channels_last)
