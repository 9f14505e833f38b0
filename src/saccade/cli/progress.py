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
    from saccade.comparison.record import Record
    from saccade.comparison.run import Setting
    from saccade.comparison.trial import Trial


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
        self.scores: dict[Trial, float] = {}
        self.failures: dict[Trial, str] = {}
        self._command = ""
        self._cost: dict[Trial, float] = {}
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
        record, asked = setting.record, setting.record.asked
        self.total = len(setting.trials)
        self.scores = dict(setting.done)
        self._command = setting.command
        for trial in setting.trials:
            epochs = record.settings(asked.variant(trial.variant)).epochs
            self._cost[trial] = (record.costs[trial.variant].train_step_ms or 0.0) * epochs
        self._to_spend = sum(self._cost[trial] for trial in setting.trials if trial not in setting.done)
        self._began = time.monotonic()
        self._note_saved()
        for note in setting.notes:
            self._say(f"note: {note}")
        for name, control in record.controls.items():
            host = f", {control.model}" if control.model != asked.model else ""
            self._say(
                f"control {name}: {plural(control.epochs, 'epoch')}{host}, for {control.ratio:.2f} times the "
                f"baseline's compute, as {control.dearest} takes"
            )
        done = f", {len(self.scores)} of them done before" if self.scores else ""
        controls = f" and {plural(len(asked.controls), 'control')}" if asked.controls else ""
        tuning = f" and {len(asked.variants) * asked.tune} of tuning" if asked.tune else ""
        self._say(
            f"{asked.model} on {asked.data}: {len(asked.variants)} variants{controls} x "
            f"{plural(len(asked.seeds), 'seed')}{tuning} = {self.total} trials{done}, "
            f"{plural(asked.settings.epochs, 'epoch')} each, {setting.jobs} at a time"
        )

    def on_event(self, event: Event) -> None:
        trial = event.trial
        if event.kind == "finished":
            self.scores[trial] = event.detail["score"]
            self._spent += self._cost[trial]
        elif event.kind == "failed":
            self.failures[trial] = event.detail["reason"]
            self._spent += self._cost[trial]
        self._note_saved()
        self._show(event)

    def _note_saved(self) -> None:
        self.saved = f"{len(self.scores)} of {self.total} trials are saved. To go on: {self._command}"

    def _show(self, event: Event) -> None:
        ended = len(self.scores) + len(self.failures)
        tried = event.trial.candidate is not None
        what = f"tuning, try {event.trial.candidate}" if tried else f"seed {event.trial.seed}"
        head = f"[{ended}/{self.total}] {event.trial.variant}, {what}: "
        if event.kind == "finished":
            images = "validation" if tried else "test"
            self._say(f"{head}{100 * event.detail['score']:.2f} % on {images}{self._time_left()}")
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
        self.running: dict[Trial, Event] = {}
        self.record: Record | None = None
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
        self.record = setting.record
        self.bar.update(self.task, total=self._to_spend)
        self.bar.start_task(self.task)
        self.live = Live(console=self.console, get_renderable=self._render, refresh_per_second=4)
        self.live.start()

    def _show(self, event: Event) -> None:
        trial = event.trial
        if event.kind in ("started", "epoch"):
            self.running[trial] = event
        else:
            self.running.pop(trial, None)
        begun = sum(self._cost[trial] * self._share(running) for trial, running in self.running.items())
        self.bar.update(self.task, completed=self._spent + begun)

    def _share(self, running: Event) -> float:
        """How much of a running trial is done."""
        return running.detail.get("epoch", 0) / self._epochs(running.trial)

    def _epochs(self, trial: Trial) -> int:
        assert self.record is not None
        return self.record.settings(self.record.asked.variant(trial.variant)).epochs

    def _render(self) -> Group:
        table = Table("variant", "seeds", "accuracy so far", "now", box=None, pad_edge=False)
        from saccade.comparison.trial import Trial

        assert self.record is not None
        for variant in self.record.asked.trained:
            name = variant.name
            marks = "".join(self._mark(Trial(name, seed)) for seed in self.record.asked.seeds)
            scores = [
                score for trial, score in self.scores.items() if trial.variant == name and trial.candidate is None
            ]
            now = "; ".join(self._now(event) for event in self.running.values() if event.trial.variant == name)
            table.add_row(Text(name), marks, f"{100 * fmean(scores):.2f} %" if scores else "", now)
        return Group(table, self.bar)

    def _now(self, running: Event) -> str:
        trial = running.trial
        what = f"seed {trial.seed}" if trial.candidate is None else f"tuning {trial.candidate}"
        if running.kind == "started":
            return f"{what}: starts"
        epoch, loss = running.detail["epoch"], running.detail["train_loss"]
        return f"{what}: epoch {epoch}/{self._epochs(trial)}, loss {loss:.3f}"

    def _mark(self, trial: Trial) -> str:
        if trial in self.scores:
            return "●"
        if trial in self.failures:
            return "✗"
        return "◐" if trial in self.running else "·"
