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
from typing import IO, Any, Literal

from saccade.comparison.trial import Trial
from saccade.comparison.worker import Slot
from saccade.errors import UsageError

Kind = Literal["started", "epoch", "finished", "failed"]

PATIENCE_S = 2.0  # for processes that have been told to end


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
    workers = [_Worker() for _ in range(min(jobs, len(trials)))]
    # -P: a file in the user's folder, a random.py say, must not be imported in a library's place.
    command = [sys.executable, "-P", "-m", "saccade.comparison.worker", str(out), str(data_file)]
    server = _Server(workers, command)
    for trial in trials:
        waiting.put(trial)
    try:
        for worker in workers:
            waiting.put(None)
            worker.start(waiting, events, server)
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
            worker.end()
        server.end()
        for worker in workers:
            worker.close()
        server.close()


class _Server:
    """The process whose forks the workers are, so that importing and reading happen once: see the module ``worker``."""

    def __init__(self, workers: Sequence[_Worker], command: Sequence[str]) -> None:
        if not hasattr(os, "fork"):
            raise UsageError("comparisons need a system whose processes can fork: Linux, macOS, or WSL on Windows")
        self.log = TemporaryFile("w+", errors="replace")  # noqa: SIM115 # lives as long as the server
        slots = [worker.slot for worker in workers]
        self.process = subprocess.Popen(
            [*command, *(",".join(map(str, slot)) for slot in slots)],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            pass_fds=[descriptor for slot in slots for descriptor in slot],
            # Ctrl-C in the terminal is for the comparison, which ends its workers itself.
            start_new_session=True,
        )
        for slot in slots:  # their ends of the pipes are theirs alone, or none would be seen to end
            os.close(slot.tasks)
            os.close(slot.events)

    def end(self) -> None:
        """Wait for the end, which follows the workers'; one that takes long, as while it still imports, is not due."""
        try:
            self.process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def close(self) -> None:
        """Clear up after :meth:`end`."""
        self.log.close()


class _Worker:
    """One process, as it is seen from here: what it is told, what it tells, what it prints."""

    def __init__(self) -> None:
        their_tasks, tasks = os.pipe()
        events, their_events = os.pipe()
        self.tasks, self.events = os.fdopen(tasks, "w", buffering=1), os.fdopen(events)
        self.log = TemporaryFile("w+", errors="replace")  # noqa: SIM115 # lives as long as the worker
        self.slot = Slot(their_tasks, their_events, self.log.fileno())
        self.ending = threading.Event()
        self.thread = threading.Thread()

    def start(self, waiting: Waiting, events: Events, server: _Server) -> None:
        """Hand on tasks from a thread of its own, until there is none left."""
        self.thread = threading.Thread(target=self._serve, args=(waiting, events, server), daemon=True)
        self.thread.start()

    def end(self) -> None:
        """End the process, in the middle of a trial if need be."""
        self.ending.set()
        with suppress(BrokenPipeError):  # closing writes what a process that has ended never read
            self.tasks.close()

    def close(self) -> None:
        """Clear up once the process has ended."""
        if self.thread.is_alive():  # an interruption may come before it was started
            self.thread.join()
        self.events.close()
        self.log.close()

    def _serve(self, waiting: Waiting, events: Events, server: _Server) -> None:
        try:
            while (trial := waiting.get()) is not None and not self.ending.is_set():
                for event in self._run(trial, server):
                    events.put(event)
        except BaseException as error:  # noqa: BLE001 # carried to the thread that reads the events
            events.put(error)
        with suppress(BrokenPipeError):
            self.tasks.close()
        events.put(None)

    def _run(self, trial: Trial, server: _Server) -> Iterator[Event]:
        yield Event("started", trial)
        with suppress(BrokenPipeError):  # of a process that has ended, whose events have ended, too
            self.tasks.write(json.dumps(asdict(trial)) + "\n")
        for line in self.events:
            detail = json.loads(line)
            kind = detail.pop("event")
            if kind == "died":
                yield _failed(trial, detail["status"], self.log)
                return
            yield Event(kind, trial, detail)
            if kind != "epoch":
                return
        yield _failed(trial, server.process.wait(), server.log)


def _failed(trial: Trial, status: int, log: IO[str]) -> Event:
    log.seek(0)
    last = (log.read().strip().splitlines() or [""])[-1]
    # The next process writes to the same file, and must not be blamed for what this one wrote.
    log.seek(0)
    log.truncate()
    if status < 0:
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        how = f"was ended by signal {-status}, {signal.strsignal(-status)}{hint}"
    else:
        how = f"ended with status {status}" + (f": {last}" if last else "")
    return Event("failed", trial, {"reason": f"its process {how}"})
