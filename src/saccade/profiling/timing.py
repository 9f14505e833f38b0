"""How long things take: medians of repeated runs, taken in turns so that drift of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch


def median_ms(
    actions: Mapping[str, Callable[[], Any]], *, device: torch.device, budget_s: float = 1.0
) -> dict[str, float]:
    """Milliseconds of each action: the median over rounds in which every action runs once.

    Args:
        actions: what to time, by name; each is run twice beforehand to warm up.
        device: waited for after every run where it works asynchronously.
        budget_s: seconds to spend per action; at least 5 rounds are run, at most 200.
    """
    started = time.perf_counter()
    for action in actions.values():
        action()
    for action in actions.values():
        action()
    _wait(device)
    round_s = (time.perf_counter() - started) / 2
    rounds = max(5, min(200, int(budget_s * len(actions) / round_s)))
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            _wait(device)
            times[name].append(time.perf_counter() - started)
    return {name: 1e3 * median(values) for name, values in times.items()}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch's CPU operators with ``count`` threads, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
