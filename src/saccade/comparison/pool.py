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
from saccade.errors import TrialError

Kind = Literal["started", "epoch", "finished", "failed"]

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
PATIENCE_S = 5.0  # for processes that have nothing more to do


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

    Raises:
        TrialError: the process ended of which they are forks: with it nothing can be run.
    """
    waiting: Waiting = queue.SimpleQueue()
    events: Events = queue.SimpleQueue()
    workers = [_Worker() for _ in range(min(jobs, len(trials)))]
    for trial in trials:
        waiting.put(trial)
    # -P: a file in the user's folder, a random.py say, must not be imported in a library's place.
    command = [sys.executable, "-P", "-m", "saccade.comparison.worker", str(out), str(data_file)]
    try:
        with _Server(workers, command) as server:
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
            server.wait()
    finally:
        for worker in workers:
            worker.close()


class _Server:
    """The process whose forks the workers are, so that importing and reading happen once: see the module ``worker``."""

    def __init__(self, workers: Sequence[_Worker], command: Sequence[str]) -> None:
        slots = [worker.slot for worker in workers]
        self.log = TemporaryFile("w+", errors="replace")  # noqa: SIM115 # lives as long as the server
        try:
            self.process = subprocess.Popen(
                [*command, *(",".join(map(str, slot)) for slot in slots)],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                env=os.environ | dict.fromkeys(ONE_THREAD, "1"),
                pass_fds=[descriptor for slot in slots for descriptor in slot],
                # A group of its own: Ctrl-C in the terminal is for the comparison, which ends the group itself.
                start_new_session=True,
            )
        except BaseException:
            self.log.close()
            raise
        finally:
            for slot in slots:  # their ends of the pipes are theirs alone, or none would be seen to end
                os.close(slot.tasks)
                os.close(slot.events)

    def __enter__(self) -> _Server:
        return self

    def wait(self) -> None:
        """Let it end by itself once there are no more tasks; it clears up after its forks."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        """End whatever is left of its group; as files are written whole or not at all, that is safe at any time."""
        with suppress(ProcessLookupError, PermissionError):  # none is left, or none that is not already dead
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


class _Worker:
    """A place for one process at a time, as seen from here: what it is told, what it tells, what it prints."""

    def __init__(self) -> None:
        their_tasks, tasks = os.pipe()
        events, their_events = os.pipe()
        self.tasks, self.events = os.fdopen(tasks, "w", buffering=1), os.fdopen(events)
        self.log = TemporaryFile("w+", errors="replace")  # noqa: SIM115 # lives as long as the worker
        self.slot = Slot(their_tasks, their_events, self.log.fileno())
        self.thread = threading.Thread()

    def start(self, waiting: Waiting, events: Events, server: _Server) -> None:
        """Hand on tasks from a thread of its own, until there is none left."""
        self.thread = threading.Thread(target=self._serve, args=(waiting, events, server), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Clear up once the processes have ended."""
        if self.thread.is_alive():  # an interruption may come before it was started
            self.thread.join()
        with suppress(BrokenPipeError):  # closing writes what a process that has ended never read
            self.tasks.close()
        self.events.close()
        self.log.close()

    def _serve(self, waiting: Waiting, events: Events, server: _Server) -> None:
        try:
            while (trial := waiting.get()) is not None:
                for event in self._run(trial, server):
                    events.put(event)
            self.tasks.close()
        except BaseException as error:  # noqa: BLE001 # carried to the thread that reads the events
            events.put(error)
        events.put(None)

    def _run(self, trial: Trial, server: _Server) -> Iterator[Event]:
        yield Event("started", trial)
        with suppress(BrokenPipeError):  # where the processes have ended their events end, too, which is told below
            self.tasks.write(json.dumps(asdict(trial)) + "\n")
        for line in self.events:
            detail = _read(line)
            kind = detail.pop("event", None)
            if kind == "died":
                reason = _ending(detail["status"], self.log)
                # The next process writes to the same file, and must not be blamed for what this one wrote.
                self.log.seek(0)
                self.log.truncate()
                yield Event("failed", trial, {"reason": f"its process {reason}"})
                return
            # One that died before it read its task leaves that to the next process, long after it was given up.
            if detail.pop("trial", None) == asdict(trial):
                yield Event(kind, trial, detail)
                if kind != "epoch":
                    return
        ending = _ending(server.process.wait(), server.log)
        raise TrialError(
            f"the process that starts the trials {ending}; trials that are done are saved: run the same command again"
        )


def _read(line: str) -> dict[str, Any]:
    """An event; an empty one of a line that a process did not live to end."""
    try:
        return json.loads(line)
    except ValueError:
        return {}


def _ending(status: int, log: IO[str]) -> str:
    """How a process ended that had no reason to."""
    if status < 0:
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        return f"was ended by signal {-status}, {signal.strsignal(-status)}{hint}"
    log.seek(0)
    last = (log.read().strip().splitlines() or [""])[-1]
    return f"ended with status {status}" + (f": {last}" if last else "")
