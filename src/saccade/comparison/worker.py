"""Processes of a comparison: one that measures what its variants cost, then some that run its trials.

``python -m saccade.comparison.worker OUT SCRATCH SLOT...`` imports and reads what all of them need, once, and keeps a
fork of itself at work for every slot: three file descriptors, ``TASKS,EVENTS,LOG``. The fork of the first slot
measures; those of the others begin when its tasks have ended. A fork reads one task per line from TASKS and writes what
happens, one JSON object per line, to EVENTS; what libraries print goes to LOG. It ends when TASKS ends, also in the
middle of a task: none outlives its comparison. A fork that dies is told of, and replaced.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from saccade.data import ImageData


class Slot(NamedTuple):
    """The file descriptors of one process at a time."""

    tasks: int
    events: int
    log: int


# In the folder that a comparison shares with its processes: all images, and which variant is measured by which process.
IMAGES, AT_WORK = "images.safetensors", "at-work"


def main(out: Path, scratch: Path, slots: Sequence[Slot]) -> None:
    """Serve a comparison in the folder ``out``, on images that are in ``scratch``, until all TASKS have ended."""
    with importing():
        import torch
        import torch._dynamo  # what a task would import takes seconds: once is enough; so below

        import saccade.comparison.measure
        from saccade.data import ImageData

    torch.set_num_threads(1)
    data = ImageData.load(scratch / IMAGES)
    (scratch / IMAGES).unlink()  # it stays while it is mapped, and a comparison that is killed would leave it behind
    measuring, *training = slots
    supervise([measuring], partial(measure, data=data, at_work=scratch / AT_WORK), idle=training)

    if all(_ended(slot.tasks) for slot in training):  # the comparison was killed
        return

    with importing():
        import saccade.training.fit  # noqa: F401
    supervise(training, partial(train, data=data, out=out))


@contextmanager
def importing() -> Iterator[None]:
    """Import without looking for garbage: what is imported stays, and to go through it again and again takes a tenth of
    the time. Nor do forks look through it later, which would copy the memory that they share."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def measure(slot: Slot, data: ImageData, at_work: Path) -> None:
    """Measure the variants of each task; ``at_work`` keeps which of them runs, should this process die."""
    from saccade.comparison.measure import measure_costs
    from saccade.comparison.request import Request
    from saccade.errors import DataError, TrialError, UsageError

    with os.fdopen(slot.events, "w", buffering=1) as events:
        for task in tasks(os.fdopen(slot.tasks)):
            tell, request = partial(_tell, events, task["id"]), Request.model_validate(task["request"])
            variants = [request.variant(name) for name in task["variants"]]
            try:
                with noting(at_work, task["variants"]) as note:
                    costs, unable = measure_costs(request, data, variants, task["hosts"], note)
            except (UsageError, DataError) as error:
                kind = UsageError if isinstance(error, UsageError) else DataError
                tell("refused", {"error": kind.__name__, "message": str(error)})
            except TrialError as error:
                tell("failed", {"reason": str(error), "process": os.getpid()})
            except Exception as error:  # noqa: BLE001 # what builds a network may fail in any way
                where = traceback.extract_tb(error.__traceback__)[-1]
                reason = f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
                tell("failed", {"reason": reason, "process": os.getpid()})
            else:
                tell("measured", {"costs": {name: cost.model_dump() for name, cost in costs.items()}, "unable": unable})


def train(slot: Slot, data: ImageData, out: Path) -> None:
    """Run the trial of each task."""
    from saccade._files import write_text
    from saccade.comparison.record import read_record
    from saccade.comparison.trial import ERROR, Trial, run_trial, trial_folder

    with os.fdopen(slot.events, "w", buffering=1) as events:
        for task in tasks(os.fdopen(slot.tasks)):
            tell, trial = partial(_tell, events, task["id"]), Trial(**task["trial"])
            try:
                score = run_trial(read_record(out), trial, data, out, partial(tell, "epoch"))
            except Exception as error:  # noqa: BLE001 # a trial that fails, however, is reported and the rest goes on
                # Before it is told: the comparison may then be at its end. On a full disk the reason is told alone.
                with suppress(OSError, ValueError):
                    write_text(trial_folder(out, trial) / ERROR, traceback.format_exc())
                tell("failed", {"reason": f"{type(error).__name__}: {error}"})
            else:
                tell("finished", {"score": score})


@contextmanager
def noting(file: Path, names: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """What writes down this process and the number of a name: one system call, that times beside it hardly feel."""
    numbers = {name: f"{os.getpid()} {number:8d}".encode() for number, name in enumerate(names)}
    with file.open("wb", buffering=0) as note:

        def write(name: str) -> None:
            os.pwrite(note.fileno(), numbers[name], 0)

        yield write


def _tell(events: IO[str], number: int, event: str, detail: dict[str, Any]) -> None:
    events.write(json.dumps({"id": number, "event": event, **detail}) + "\n")


def supervise(slots: Sequence[Slot], work: Callable[[Slot], None], idle: Sequence[Slot] = ()) -> None:
    """Keep a fork at work for every slot until its tasks have ended; ``idle`` are slots that none of them works for."""
    known = [*slots, *idle]
    for slot in known:
        for descriptor in slot:  # what a task starts, as by subprocess, must not hold them open
            os.set_inheritable(descriptor, False)
    forks = {_fork(slot, known, work): slot for slot in slots}
    while forks:
        pid, status = os.wait()
        slot = forks.pop(pid, None)  # None: some library's own process
        if slot is not None and not _ended(slot.tasks):
            event = {"event": "died", "process": pid, "status": os.waitstatus_to_exitcode(status)}
            # On a line of its own: the fork may have died within one.
            os.write(slot.events, f"\n{json.dumps(event)}\n".encode())
            forks[_fork(slot, known, work)] = slot
    for slot in slots:
        _close(slot)


def _ended(tasks: int) -> bool:
    """Whether nobody can write tasks any more."""
    waiting = select.poll()
    waiting.register(tasks, 0)
    return any(event & select.POLLHUP for _, event in waiting.poll(0))


def _close(slot: Slot) -> None:
    for descriptor in slot:
        os.close(descriptor)


def _fork(slot: Slot, known: Sequence[Slot], work: Callable[[Slot], None]) -> int:
    """Start a fork that works for ``slot``; gives its number."""
    if pid := os.fork():
        return pid
    try:
        for other in set(known) - {slot}:
            _close(other)
        # Whatever a library prints must not be read as an event.
        os.dup2(slot.log, 1)
        os.dup2(slot.log, 2)
        work(slot)
    except BaseException:  # noqa: BLE001 # a fork must not go on as the process that it was forked from
        with suppress(OSError):
            sys.stdout.flush()
            traceback.print_exc()
    finally:
        os._exit(1)


def tasks(lines: IO[str]) -> Iterator[dict[str, Any]]:
    """Tasks as they come; when they end, the process ends, whatever it is at: a thread of its own reads them."""
    read: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        try:
            for line in lines:
                read.put(line)
        finally:
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield json.loads(read.get())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Slot(*map(int, words.split(","))) for words in sys.argv[3:]])
