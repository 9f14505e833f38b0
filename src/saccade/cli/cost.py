"""What ``saccade cost`` prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.text import Text
from torch import Tensor, nn

from saccade._api import plan_of
from saccade._checks import check_choice, check_device, check_int
from saccade._specs import Spec, parse_specs, split_places
from saccade.attention.catalog import check_mechanism
from saccade.cli.sites import example
from saccade.cli.tables import console, table
from saccade.errors import UsageError
from saccade.nets import Host
from saccade.nets.places import add_attention, is_residual_form, usual_place
from saccade.profiling.cost import Cost, measure
from saccade.profiling.timing import Timing, threads
from saccade.report.numbers import SPACE, count, milliseconds, plural, times
from saccade.surgery import Survey

SCHEMA = "saccade.cost/1"
HOST = "none"
COMPARED = ("params", "macs", "latency_ms", "train_step_ms", "peak_memory_mib")


@dataclass(frozen=True)
class Variant:
    """A network to measure, and where attention stands in it."""

    name: str
    model: nn.Module
    at: str | None = None
    sites: tuple[str, ...] = ()
    form: str = ""


def print_cost(
    model: str,
    *,
    attention: str,
    at: str | None,
    start: str,
    image_size: str | None,
    batch_size: int,
    compile: bool,
    thread_count: int | None,
    device: str,
    train: bool,
    as_json: bool,
) -> None:
    """Build the host and its variants, measure them in turns and print a table, or JSON."""
    check_int("--batch-size", batch_size)
    if thread_count is not None:
        check_int("--threads", thread_count)
    check_choice("start", start, ("paper", "identity"))
    check_device(device)
    specs = _specs(attention)
    named = Host.parse(model)
    given = None if image_size is None else example(image_size)
    host = named.sized(None if given is None else given.shape[-1]).build()
    image: Tensor = Survey(host, given).args[0]
    variants = [_variant(host, spec, at, start, image) for spec in specs]
    batch = torch.randn(batch_size, *image.shape[1:], generator=torch.Generator().manual_seed(0))
    with nullcontext() if thread_count is None else threads(thread_count):
        networks = {variant.name: variant.model for variant in variants}
        costs = measure(networks, batch, device=device, train=train, compile=compile, on_stage=_tell)
        about = {
            "model": str(named),
            "image": list(image.shape[1:]),
            "batch_size": batch_size,
            "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
    if as_json:
        entries = [_entry(variant, costs[variant.name], costs[HOST]) for variant in variants]
        print(json.dumps({"schema": SCHEMA, **about, "start": start, "variants": entries}, indent=2))
    else:
        _print_tables(variants, costs, about)


def _tell(stage: str) -> None:
    print(f"measuring: {stage}", file=sys.stderr)


def _specs(attention: str) -> list[Spec]:
    specs = parse_specs(attention, "attention")
    if not any(spec.name == HOST for spec in specs):
        specs.insert(0, Spec(HOST))
    if len({str(spec) for spec in specs}) < len(specs):
        raise UsageError(f"`attention` (={attention!r}) names the same variant twice")
    for spec in specs:
        if spec.name != HOST:
            check_mechanism(spec.name, spec.options)
        elif spec.options:
            raise UsageError(f"`attention` (={str(spec)!r}): the host {HOST!r} has no options")
    return specs


def _variant(host: nn.Module, spec: Spec, at: str | None, start: str, image: Tensor) -> Variant:
    if spec.name == HOST:
        return Variant(HOST, host)
    places = None if at is None else split_places(at)
    model = add_attention(host, spec.name, at=places, options=spec.options, start=start, example_input=image)
    # Its own name, since it is not the paper's count of parameters.
    form = ", residual form" if is_residual_form(spec.name, start) else ""
    sites = tuple(edit.site for edit in plan_of(model).edits)
    return Variant(str(spec), model, at or usual_place(spec.name, host)[0], sites, form)


def _entry(variant: Variant, cost: Cost, host: Cost) -> dict[str, Any]:
    own, base = _numbers(cost), _numbers(host)
    ratios = {name: own[name] / base[name] if own[name] is not None and base[name] else None for name in COMPARED}
    return {
        "name": variant.name,
        "at": variant.at,
        "sites": variant.sites,
        **own,
        "throughput": cost.throughput,
        "state_bytes": cost.state_bytes,
        **{name: None if timing is None else asdict(timing) for name, timing in _timings(cost).items()},
        "compile_error": cost.compile_error,
        "ratios": ratios,
    }


def _timings(cost: Cost) -> dict[str, Timing | None]:
    names = ("latency", "latency_one", "latency_compiled", "latency_one_compiled", "train_step")
    return {name: getattr(cost, name) for name in names}


def _numbers(cost: Cost) -> dict[str, Any]:
    """What is compared with the host; multiply-accumulates are those of one image, as they are published."""
    return {name: getattr(cost, "macs_per_image" if name == "macs" else name) for name in COMPARED}


def _print_tables(variants: list[Variant], costs: dict[str, Cost], about: dict[str, Any]) -> None:
    out = console()
    images = plural(about["batch_size"], "image")
    size = " x ".join(map(str, about["image"]))
    where = f"{about['device']}, {plural(about['threads'], 'CPU thread')}"
    out.print(Text(f"{about['model']}\nimages of {size} on {where}\n"))
    shown = {"params": "params", "macs": "MACs", "latency_ms": "latency ms"}
    if costs[HOST].train_step is not None:
        shown |= {"train_step_ms": "step ms", "peak_memory_mib": "memory MiB"}
    rows = [[v.name, *_compared(shown, costs[v.name], None if v.name == HOST else costs[HOST])] for v in variants]
    out.print(table(("network", *shown.values()), rows, left=("network",)))
    out.print()
    rows = [row for v in variants for row in _times(v.name, costs[v.name], images)]
    out.print(table(("times in ms", "", "median", "p95", "spread", "runs", "images/s"), rows, left=("times in ms", "")))
    out.print()
    unsteady = any(is_unsteady(timing) for cost in costs.values() for timing in _timings(cost).values())
    for line in (*_notes(variants, costs), *_explained(images, unsteady)):
        out.print(Text(line))


def _compared(shown: Iterable[str], cost: Cost, host: Cost | None) -> list[str]:
    """A cell for each number: the number, and how many times the host's it is."""
    own, base = _numbers(cost), {} if host is None else _numbers(host)
    cells = []
    for name in shown:
        # A program that reads the table looks for plain spaces.
        value = count(own[name]).replace(SPACE, " ") if name in ("params", "macs") else _decimals(own[name])
        cells.append(f"{value} {times(own[name], base.get(name)) or ' ' * len('×1.00')}")
    return cells


def _decimals(number: float | None) -> str:
    return "" if number is None else milliseconds(number)


def _times(name: str, cost: Cost, images: str) -> list[list[str]]:
    """A row for each time that was measured; the network's name is on the first."""
    measured: list[tuple[str, Timing | None, int]] = [(f"forward, {images}", cost.latency, cost.batch_size)]
    if cost.batch_size > 1:
        measured.insert(0, ("forward, 1 image", cost.latency_one, 1))
        measured.append(("compiled, 1 image", cost.latency_one_compiled, 1))
    measured.append((f"compiled, {images}", cost.latency_compiled, cost.batch_size))
    measured.append((f"training step, {images}", cost.train_step, cost.batch_size))
    rows = [
        ["", what, *map(milliseconds, (t.p50, t.p95, t.spread)), str(t.runs), f"{1e3 * size / t.p50:.1f}"]
        for what, t, size in measured
        if t is not None
    ]
    rows[0][0] = name
    return rows


def _notes(variants: list[Variant], costs: dict[str, Cost]) -> Iterable[str]:
    for variant in variants:
        cost, where = costs[variant.name], ""
        if variant.sites:
            where = f"; attention at {plural(len(variant.sites), 'site')} ({variant.at}){variant.form}"
        yield f"{variant.name}: {cost.state_bytes / 2**20:.1f} MiB on disk{where}"
        if cost.compile_error is not None:
            yield f"{variant.name} cannot be compiled: {cost.compile_error}"


def _explained(images: str, unsteady: bool) -> Iterable[str]:
    yield ""
    yield f"MACs are of 1 image; latency, and step and memory of training, of {images}."
    yield "Timed in turns after two runs to warm up; spread is between the quartiles."
    if unsteady:
        yield "Some spreads are over a quarter of the median: measure again on a quiet machine."


def is_unsteady(timing: Timing | None) -> bool:
    """Whether runs differ by more than what their median can be trusted for."""
    return timing is not None and timing.spread > timing.p50 / 4
