"""Time: warm-up, turns, percentiles; by a clock that is made up."""

import pytest
import torch

from saccade.profiling.timing import Timing, threads, time_each

CPU = torch.device("cpu")


class Machine:
    """A clock, and actions that take the seconds that are given, one after another, the last for ever."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def action(self, name, *seconds):
        left = list(seconds)

        def run():
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run

    def clock(self):
        return self.now


def test_percentiles_and_spread_by_hand():
    # Eleven runs, so that the percentiles are at runs: the quartiles between the third and fourth, eighth and ninth.
    found = Timing.of_seconds([value / 1e3 for value in (11, 1, 10, 2, 9, 3, 8, 4, 7, 5, 6)])
    assert (found.p50, found.p95, found.spread, found.runs) == (6, pytest.approx(10.5), pytest.approx(5), 11)


def test_one_slow_run_moves_the_95th_percentile_and_not_the_median():
    found = Timing.of_seconds([1e-3] * 9 + [1.0])
    assert (found.p50, found.spread) == (1, 0)
    assert found.p50 < found.p95 < 1000


def test_actions_are_timed_in_turns_after_two_runs_to_warm_up():
    machine = Machine()
    actions = {"a": machine.action("a", 9.0, 4.0, 1.0), "b": machine.action("b", 9.0, 4.0, 3.0)}
    times = time_each(actions, device=CPU, budget_s=0.0, clock=machine.clock)
    assert machine.order == ["a", "b"] * 7
    assert times == {"a": Timing(1000, 1000, 0, 5), "b": Timing(3000, 3000, 0, 5)}


def test_drift_of_the_machine_hits_all_alike():
    machine = Machine()
    slower = [1.0, 1.0, *range(1, 11)]
    actions = {name: machine.action(name, *slower) for name in "ab"}
    times = time_each(actions, device=CPU, budget_s=0.0, clock=machine.clock)
    assert times["a"] == times["b"]
    assert times["a"].spread > 0


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, 200), (1e-9, 200), (0.1, 10), (10.0, 5), (10.1, 3)])
def test_runs_fill_the_budget_between_the_fewest_and_the_most(seconds, runs):
    machine = Machine()
    # The first run, here of an hour, does not count: it is the one that compiles.
    actions = {"a": machine.action("a", 3600.0, seconds)}
    assert time_each(actions, device=CPU, budget_s=1.0001, clock=machine.clock)["a"].runs == runs


def test_threads_come_back_also_after_an_error():
    before, inside = torch.get_num_threads(), []

    def fail() -> None:
        with threads(before + 1):
            inside.append(torch.get_num_threads())
            raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match=r"on purpose"):
        fail()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before
