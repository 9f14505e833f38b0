"""Processes that run trials, one after another, with one thread each.

``python -m saccade.comparison.worker FOLDER DATA SLOT...`` imports and reads what all of them need, once, and keeps a
fork of itself at work for every slot: three file descriptors, ``TASKS,EVENTS,LOG``. A fork reads one trial per line
from TASKS and writes what happens, one JSON object per line, to EVENTS; what libraries print goes to LOG. It ends when
TASKS ends, also in the middle of a trial: no trial outlives its comparison. A fork that dies is told of, and replaced.
"""

from __future__ import annotations

import json
import os
import queue
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NamedTuple


class Slot(NamedTuple):
    """The file descriptors of one process at a time."""

    tasks: int
    events: int
    log: int


def main(folder: str, data_file: str, slots: Sequence[Slot]) -> None:
    """Serve trials of the comparison in ``folder`` on the images in ``data_file`` until all TASKS have ended."""
    import torch

    import saccade.training.fit  # noqa: F401 # what a trial imports on its use takes seconds: once is enough
    from saccade._files import write_text
    from saccade.comparison.record import read_record
    from saccade.comparison.trial import ERROR, Trial, run_trial, trial_folder
    from saccade.data import ImageData

    torch.set_num_threads(1)
    out = Path(folder)
    record = read_record(out)
    data = ImageData.load(Path(data_file))
    Path(data_file).unlink()  # it stays while it is mapped, and a comparison that is killed would leave it behind

    def work(slot: Slot) -> None:
        events = os.fdopen(slot.events, "w", buffering=1)

        def tell(**event: Any) -> None:
            events.write(json.dumps({"trial": asdict(trial), **event}) + "\n")

        for task in tasks(os.fdopen(slot.tasks)):
            trial = Trial(**task)
            try:
                score = run_trial(record, trial, data, out, lambda epoch: tell(event="epoch", **epoch.as_dict()))
            except Exception as error:  # noqa: BLE001 # a trial that fails, however, is reported and the rest goes on
                # Before it is told: the comparison may then be at its end. On a full disk the reason is told alone.
                with suppress(OSError, ValueError):
                    write_text(trial_folder(out, trial) / ERROR, traceback.format_exc())
                tell(event="failed", reason=f"{type(error).__name__}: {error}")
            else:
                tell(event="finished", score=score)

    supervise(slots, work)


def supervise(slots: Sequence[Slot], work: Callable[[Slot], None]) -> None:
    """Keep a fork at work for every slot until its tasks have ended."""
    for slot in slots:
        for descriptor in slot:  # what a trial starts, as by subprocess, must not hold them open
            os.set_inheritable(descriptor, False)
    forks = {_fork(slot, slots, work): slot for slot in slots}
    while forks:
        pid, status = os.wait()
        slot = forks.pop(pid, None)  # None: some library's own process
        if slot is not None and not _ended(slot.tasks):
            event = {"event": "died", "status": os.waitstatus_to_exitcode(status)}
            # On a line of its own: the fork may have died within one.
            os.write(slot.events, f"\n{json.dumps(event)}\n".encode())
            forks[_fork(slot, slots, work)] = slot


def _ended(tasks: int) -> bool:
    """Whether nobody can write tasks any more."""
    waiting = select.poll()
    waiting.register(tasks, 0)
    return any(event & select.POLLHUP for _, event in waiting.poll(0))


def _fork(slot: Slot, slots: Sequence[Slot], work: Callable[[Slot], None]) -> int:
    """Start a fork that works for ``slot``; gives its number."""
    if pid := os.fork():
        return pid
    try:
        for other in set(slots) - {slot}:
            for descriptor in other:
                os.close(descriptor)
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
    main(sys.argv[1], sys.argv[2], [Slot(*map(int, words.split(","))) for words in sys.argv[3:]])
