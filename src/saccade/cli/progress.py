"""Progress of a comparison: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from saccade.report.numbers import plural

if TYPE_CHECKING:
    from saccade.comparison.pool import Event
    from saccade.comparison.request import Request
    from saccade.comparison.run import Setting


def make_progress() -> PlainProgress:
    """Live where standard output is a terminal."""
    console = Console()
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


class PlainProgress:
    """One line for every trial that ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.saved = "no trial was begun. Run the same command to go on"
        self.total = 0
        self.scores: dict[tuple[str, int], float] = {}
        self.failures: dict[tuple[str, int], str] = {}
        self._command = ""
        self._cost: dict[str, float] = {}
        self._spent = 0.0
        self._to_spend = 0.0
        self._began = 0.0

    def __enter__(self) -> Self:
        self._say("preparing: reading images, building and measuring the variants")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def on_setting(self, setting: Setting) -> None:
        asked = setting.record.asked
        self.total = len(asked.variants) * len(asked.seeds)
        self.scores = dict(setting.done)
        self._command = setting.command
        self._cost = {name: cost.train_step_ms for name, cost in setting.record.costs.items()}
        waiting = [(v.name, s) for v in asked.variants for s in asked.seeds if (v.name, s) not in setting.done]
        self._to_spend = sum(self._cost[name] for name, _ in waiting)
        self._began = time.monotonic()
        self._note_saved()
        for note in setting.notes:
            self._say(f"note: {note}")
        done = f", {len(self.scores)} of them done before" if self.scores else ""
        self._say(
            f"{asked.model} on {asked.data}: {len(asked.variants)} variants x {plural(len(asked.seeds), 'seed')} = "
            f"{self.total} trials{done}, {plural(asked.settings.epochs, 'epoch')} each, {setting.jobs} at a time"
        )

    def on_event(self, event: Event) -> None:
        trial = (event.variant, event.seed)
        if event.kind == "finished":
            self.scores[trial] = event.detail["score"]
            self._spent += self._cost[event.variant]
        elif event.kind == "failed":
            self.failures[trial] = event.detail["reason"]
            self._spent += self._cost[event.variant]
        self._note_saved()
        self._show(event)

    def _note_saved(self) -> None:
        self.saved = f"{len(self.scores)} of {self.total} trials are saved. To go on: {self._command}"

    def _show(self, event: Event) -> None:
        ended = len(self.scores) + len(self.failures)
        head = f"[{ended}/{self.total}] {event.variant}, seed {event.seed}: "
        if event.kind == "finished":
            self._say(f"{head}{100 * event.detail['score']:.2f} % on test{self._time_left()}")
        elif event.kind == "failed":
            self._say(f"{head}failed: {event.detail['reason']}")

    def _time_left(self) -> str:
        """From the time taken so far, weighing trials by their measured step times."""
        left = (time.monotonic() - self._began) * (self._to_spend - self._spent) / self._spent
        if left < 1:
            return ""
        return f"; about {left / 60:.1f} min left" if left >= 60 else f"; about {left:.0f} s left"

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveProgress(PlainProgress):
    """A table of all variants that fills while they train."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.running: dict[tuple[str, int], Event] = {}
        self.asked: Request | None = None
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("passed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self.task = self.bar.add_task("trials", start=False, total=None)
        self.live: Live | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def on_setting(self, setting: Setting) -> None:
        super().on_setting(setting)
        self.asked = setting.record.asked
        self.bar.update(self.task, total=self._to_spend)
        self.bar.start_task(self.task)
        self.live = Live(console=self.console, get_renderable=self._render, refresh_per_second=4)
        self.live.start()

    def _show(self, event: Event) -> None:
        trial = (event.variant, event.seed)
        if event.kind in ("started", "epoch"):
            self.running[trial] = event
        else:
            self.running.pop(trial, None)
        begun = sum(self._cost[running.variant] * self._share(running) for running in self.running.values())
        self.bar.update(self.task, completed=self._spent + begun)

    def _share(self, running: Event) -> float:
        """How much of a running trial is done."""
        assert self.asked is not None
        return running.detail.get("epoch", 0) / self.asked.settings.epochs

    def _render(self) -> Group:
        table = Table("variant", "seeds", "accuracy so far", "now", box=None, pad_edge=False)
        assert self.asked is not None
        for variant in self.asked.variants:
            name = variant.name
            marks = "".join(self._mark((name, seed)) for seed in self.asked.seeds)
            scores = [score for (other, _), score in self.scores.items() if other == name]
            now = "; ".join(self._now(event) for event in self.running.values() if event.variant == name)
            table.add_row(Text(name), marks, f"{100 * fmean(scores):.2f} %" if scores else "", now)
        return Group(table, self.bar)

    def _now(self, running: Event) -> str:
        assert self.asked is not None
        if running.kind == "started":
            return f"seed {running.seed}: starts"
        epoch, loss = running.detail["epoch"], running.detail["train_loss"]
        return f"seed {running.seed}: epoch {epoch}/{self.asked.settings.epochs}, loss {loss:.3f}"

    def _mark(self, trial: tuple[str, int]) -> str:
        if trial in self.scores:
            return "●"
        if trial in self.failures:
            return "✗"
        return "◐" if trial in self.running else "·"
