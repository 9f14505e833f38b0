"""Worker processes as the comparison sees them: the one that starts them, and places for one process at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO, Any

from saccade.comparison.worker import Slot
from saccade.errors import TrialError

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# For glibc: what a step frees the next one needs, and to give it back to the system in between costs 3 % of a training,
# in page faults. 32 MiB is the most that every version takes; larger blocks are the system's as before.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
PATIENCE_S = 5.0  # for processes that have nothing more to do


class Server:
    """The process whose forks the workers are, so that importing and reading happen once: see the module ``worker``."""

    def __init__(self, workers: Sequence[Worker], command: Sequence[str]) -> None:
        slots = [worker.slot for worker in workers]
        self.log = TemporaryFile("w+", errors="replace")  # noqa: SIM115 # lives as long as the server
        try:
            self.process = subprocess.Popen(
                [*command, *(",".join(map(str, slot)) for slot in slots)],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                env=KEEP_MEMORY | os.environ | dict.fromkeys(ONE_THREAD, "1"),
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

    def __enter__(self) -> Server:
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


class Worker:
    """A place for one process at a time, as seen from here: what it is told, what it tells, what it prints."""

    def __init__(self) -> None:
        their_tasks, tasks = os.pipe()
        events, their_events = os.pipe()
        self.tasks, self.events = os.fdopen(tasks, "w", buffering=1), os.fdopen(events)
        self.log = TemporaryFile("w+", errors="replace")  # noqa: SIM115 # lives as long as the worker
        self.slot = Slot(their_tasks, their_events, self.log.fileno())
        self.thread = threading.Thread()
        self.asked = 0

    def start(self, job: Callable[[], None]) -> None:
        """Run a job, of which asking is a part, in a thread of this place's own."""
        self.thread = threading.Thread(target=job, daemon=True)
        self.thread.start()

    def ask(self, task: Mapping[str, Any], server: Server) -> Iterator[dict[str, Any]]:
        """Hand on a task, and give what is told of it. A process that dies has failed at it; another takes its place.

        Raises:
            TrialError: the process ended of which all are forks: with it nothing can be run.
        """
        self.asked += 1
        with suppress(BrokenPipeError):  # where the processes have ended their events end, too, which is told below
            self.tasks.write(json.dumps({"id": self.asked, **task}) + "\n")
        for line in self.events:
            told = _read(line)
            if told.get("event") == "died":
                reason = _ending(told["status"], self.log)
                # The next process writes to the same file, and must not be blamed for what this one wrote.
                self.log.seek(0)
                self.log.truncate()
                yield {"event": "failed", "reason": f"its process {reason}", "process": told["process"]}
                return
            # One that died before it read its task leaves that to the next process, long after it was given up.
            if told.pop("id", None) == self.asked:
                yield told
        ending = _ending(server.process.wait(), server.log)
        raise TrialError(
            f"the process that starts the trials {ending}; trials that are done are saved: run the same command again"
        )

    def dismiss(self) -> None:
        """Tell the process that there are no more tasks: it ends."""
        with suppress(BrokenPipeError):  # closing writes what a process that has ended never read
            self.tasks.close()

    def close(self) -> None:
        """Clear up once the processes have ended."""
        if self.thread.is_alive():  # an interruption may come before it was started
            self.thread.join()
        self.dismiss()
        self.events.close()
        self.log.close()


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
