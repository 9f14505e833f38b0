"""What every variant of a comparison costs: measured before the first trial, while the machine is quiet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from saccade._api import plan_of
from saccade.comparison.request import Request, Variant
from saccade.comparison.trial import build_variant
from saccade.data import ImageData
from saccade.errors import TrialError, UsageError
from saccade.nets.places import usual_place
from saccade.profiling.cost import Cost, forward, measure, train_step
from saccade.profiling.timing import threads
from saccade.report.results import Measured

BUDGET_S = 0.25  # seconds for each of a variant's times


def measure_costs(
    request: Request,
    data: ImageData,
    variants: Sequence[Variant],
    hosts: Mapping[str, str],
    on_next: Callable[[str], None] = lambda _name: None,
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Build every variant once, which also finds what cannot work, and measure all in turns with one thread.

    ``hosts`` are those of variants with another than the request's. Where one cannot be run or trained, as when memory
    does not suffice for it, the others are measured all the same. ``on_next`` is told which is built or run next, every
    time: should the process die, that is the one.

    Returns:
        What each costs, and why some cannot be run.

    Raises:
        UsageError, DataError: a variant that cannot be built as it was asked for.
        TrialError: the variant that ``on_next`` was told of last failed later than at its first steps.
    """
    seed, models = request.seeds[0], dict[str, nn.Module]()
    for each in variants:
        on_next(each.name)
        models[each.name] = build_variant(request, each, data, seed, hosts.get(each.name))
        models[each.name].to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] # as in training
    batch = torch.randn(min(request.settings.batch_size, len(data.train)), *data.shape)
    batch = batch.contiguous(memory_format=torch.channels_last)
    with threads(1):
        unable: dict[str, str] = {}
        for name, model in models.items():
            on_next(name)
            if (reason := _failure(model, batch)) is not None:
                unable[name] = reason
        able = {name: model for name, model in models.items() if name not in unable}
        try:
            costs = measure(able, batch, device="cpu", compile=request.compile, budget_s=BUDGET_S, on_next=on_next)
        except UsageError as error:  # to whom only measures; here the call is no mistake
            raise TrialError(str(error)) from error
    return {each.name: _measured(each, models[each.name], costs.get(each.name)) for each in variants}, unable


def _failure(model: nn.Module, batch: Tensor) -> str | None:
    """Why a network cannot be run, or trained for a step."""
    try:
        forward(model, batch[:1])()
        train_step(model, batch)()
    except Exception as error:  # noqa: BLE001  a network may fail in any way
        return f"{type(error).__name__}: {error}"
    finally:
        model.zero_grad()  # gradients that wait are no part of the next one's cost
    return None


def _measured(variant: Variant, model: nn.Module, cost: Cost | None) -> Measured:
    at = (
        ", ".join(variant.at) if variant.at else usual_place(variant.attention, model)[0] if variant.attention else None
    )
    sites, params = [edit.site for edit in plan_of(model).edits], sum(p.numel() for p in model.parameters())
    if cost is None:
        return Measured(at=at, sites=sites, params=params)
    return Measured(
        at=at,
        sites=sites,
        params=params,
        state_bytes=cost.state_bytes,
        macs=cost.macs_per_image,
        latency_ms=cost.latency_one.p50,
        latency_p95_ms=cost.latency_one.p95,
        latency_compiled_ms=None if cost.latency_one_compiled is None else cost.latency_one_compiled.p50,
        compile_error=cost.compile_error,
        images_per_s=cost.throughput,
        train_step_ms=cost.train_step_ms,
        peak_memory_mib=cost.peak_memory_mib,
    )
