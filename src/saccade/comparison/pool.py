"""Run trials in worker processes and tell what happens, in one stream of events."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

from saccade.comparison.trial import Trial

Kind = Literal["started", "epoch", "finished", "failed"]


@dataclass(frozen=True)
class Event:
    """What happened to a trial. ``detail`` holds an epoch's numbers, a score, or the reason of a failure."""

    kind: Kind
    trial: Trial
    detail: dict[str, Any] = field(default_factory=dict)


Waiting = queue.SimpleQueue[Trial | None]
Events = queue.SimpleQueue[Event | BaseException | None]


def run_trials(trials: Sequence[Trial], out: Path, data_file: Path, jobs: int) -> Generator[Event, None, None]:
    """Run ``trials`` in ``jobs`` processes of one thread each, and yield events as they come.

    A process that dies fails its trial, and another one takes its place. Leaving the iteration early, by an
    interruption say, ends the processes.
    """
    waiting: Waiting = queue.SimpleQueue()
    events: Events = queue.SimpleQueue()
    workers = [_Worker(out, data_file) for _ in range(min(jobs, len(trials)))]
    for trial in trials:
        waiting.put(trial)
    try:
        for worker in workers:
            waiting.put(None)
            worker.start(waiting, events)
        ended = 0
        while ended < len(workers):
            event = events.get()
            if event is None:
                ended += 1
            elif isinstance(event, BaseException):
                raise event
            else:
                yield event
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.end()


class _Worker:
    """One process, made when there is a trial for it."""

    def __init__(self, out: Path, data_file: Path) -> None:
        self.out, self.data_file = out, data_file
        self.process: subprocess.Popen[str] | None = None
        self.log = TemporaryFile("w+", errors="replace")  # noqa: SIM115 # lives as long as the worker
        self.ending = threading.Event()
        self.thread = threading.Thread()

    def start(self, waiting: Waiting, events: Events) -> None:
        """Serve tasks from a thread of its own, until there is none left."""
        self.thread = threading.Thread(target=self._serve, args=(waiting, events), daemon=True)
        self.thread.start()

    def kill(self) -> None:
        """Stop at once, in the middle of a trial if need be."""
        self.ending.set()
        if (process := self.process) is not None:
            process.kill()

    def end(self) -> None:
        """Clear up after :meth:`kill`."""
        if self.thread.is_alive():  # an interruption may come before it was started
            self.thread.join()
        self._close()
        self.log.close()

    def _serve(self, waiting: Waiting, events: Events) -> None:
        try:
            while (trial := waiting.get()) is not None and not self.ending.is_set():
                for event in self._run(trial):
                    events.put(event)
        except BaseException as error:  # noqa: BLE001 # carried to the thread that reads the events
            events.put(error)
        events.put(None)

    def _run(self, trial: Trial) -> Iterator[Event]:
        yield Event("started", trial)
        process = self._process()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asdict(trial)) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            yield self._died(trial)
            return
        for line in process.stdout:
            detail = json.loads(line)
            kind = detail.pop("event")
            yield Event(kind, trial, detail)
            if kind != "epoch":
                return
        yield self._died(trial)

    def _process(self) -> subprocess.Popen[str]:
        if self.process is None:
            self.process = subprocess.Popen(
                # -P: a file in the user's folder, a random.py say, must not be imported in a library's place.
                [sys.executable, "-P", "-m", "saccade.comparison.worker", str(self.out), str(self.data_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                # Ctrl-C in the terminal is for the comparison, which ends its workers itself.
                start_new_session=True,
            )
            if self.ending.is_set():
                self.process.kill()
        return self.process

    def _died(self, trial: Trial) -> Event:
        status = self._close()
        self.log.seek(0)
        last = (self.log.read().strip().splitlines() or [""])[-1]
        # The next process writes to the same file, and must not be blamed for what this one wrote.
        self.log.seek(0)
        self.log.truncate()
        if status < 0:
            hint = " (out of memory?)" if status == -signal.SIGKILL else ""
            how = f"was ended by signal {-status}, {signal.strsignal(-status)}{hint}"
        else:
            how = f"ended with status {status}" + (f": {last}" if last else "")
        return Event("failed", trial, {"reason": f"its process {how}"})

    def _close(self) -> int:
        """Wait for the process, which has ended or ends when its input does."""
        process, self.process = self.process, None
        if process is None:
            return 0
        # Closing flushes what a process that was already dead never read.
        with suppress(BrokenPipeError), process:  # closes its pipes and waits
            pass
        return process.returncode
