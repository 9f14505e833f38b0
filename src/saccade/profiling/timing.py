"""How long things take: repeated runs after warming up, in turns so that drift of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch

MOST_ROUNDS, FEWEST_ROUNDS = 200, 5
# Of rounds that take longer than so many seconds fewer must do.
SLOW_S, FEWEST_SLOW_ROUNDS = 10.0, 3


@dataclass(frozen=True)
class Timing:
    """Milliseconds of repeated runs: median, 95th percentile, the distance between the quartiles; how many runs."""

    p50: float
    p95: float
    spread: float
    runs: int

    @classmethod
    def of_seconds(cls, seconds: Sequence[float]) -> Timing:
        """Of two runs at least. Percentiles are interpolated between the runs that are next to them."""
        milliseconds = [1e3 * value for value in seconds]
        low, middle, high = quantiles(milliseconds, n=4, method="inclusive")
        return cls(middle, quantiles(milliseconds, n=20, method="inclusive")[-1], high - low, len(milliseconds))


def time_each(
    actions: Mapping[str, Callable[[], Any]],
    *,
    device: torch.device,
    budget_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    on_next: Callable[[str], None] = lambda _name: None,
) -> dict[str, Timing]:
    """Time actions over rounds in which every one runs once.

    Args:
        actions: what to time, by name; each is run twice beforehand to warm up.
        device: waited for after every run where it works asynchronously.
        budget_s: seconds to spend per action; at least 5 rounds are run, at most 200; where one takes over 10 s, 3.
        clock: gives the time in seconds.
        on_next: is told the name of the action that runs next, every time, outside of what is timed.
    """

    def seconds(name: str, action: Callable[[], Any]) -> float:
        on_next(name)
        started = clock()
        action()
        _wait(device)
        return clock() - started

    for name, action in actions.items():
        on_next(name)
        action()
    _wait(device)
    # The first run is no guide: it allocates, chooses algorithms, compiles.
    round_s = sum(seconds(name, action) for name, action in actions.items())
    fewest = FEWEST_ROUNDS if round_s <= SLOW_S else FEWEST_SLOW_ROUNDS
    rounds = MOST_ROUNDS if round_s <= 0 else int(budget_s * len(actions) / round_s)
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(max(fewest, min(MOST_ROUNDS, rounds))):
        for name, action in actions.items():
            taken[name].append(seconds(name, action))
    return {name: Timing.of_seconds(values) for name, values in taken.items()}


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
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
