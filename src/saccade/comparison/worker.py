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
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

NO_MORE_TASKS = 100  # a fork's exit status; 0 would be that of a library that ends the process


class Slot(NamedTuple):
    """The file descriptors of one process."""

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

    def work(slot: Slot) -> None:
        events = os.fdopen(slot.events, "w", buffering=1)

        def tell(**event: Any) -> None:
            events.write(json.dumps(event) + "\n")

        for task in follow(os.fdopen(slot.tasks)):
            trial = Trial(**task)
            try:
                score = run_trial(record, trial, data, out, lambda epoch: tell(event="epoch", **epoch.as_dict()))
            except Exception as error:  # noqa: BLE001 # a trial that fails, however, is reported and the rest goes on
                tell(event="failed", reason=f"{type(error).__name__}: {error}")
                with suppress(OSError):  # where the disk is full, the reason has been told
                    where = trial_folder(out, trial)
                    write_text(where / ERROR, traceback.format_exc())
            else:
                tell(event="finished", score=score)

    keep(slots, work)


def keep(slots: Sequence[Slot], work: Callable[[Slot], None]) -> None:
    """Keep a fork at work for every slot, until the tasks of each have ended."""
    forks = {_fork(slot, slots, work): slot for slot in slots}
    while forks:
        pid, status = os.wait()
        slot, code = forks.pop(pid), os.waitstatus_to_exitcode(status)
        if code == NO_MORE_TASKS:
            os.close(slot.events)
        else:
            os.write(slot.events, json.dumps({"event": "died", "status": code}).encode() + b"\n")
            forks[_fork(slot, slots, work)] = slot


def _fork(slot: Slot, slots: Sequence[Slot], work: Callable[[Slot], None]) -> int:
    """Start a fork that works for ``slot``; gives its number."""
    if pid := os.fork():
        return pid
    try:
        for other in set(slots) - {slot}:
            for descriptor in other:
                with suppress(OSError):  # that of a slot whose tasks have ended is closed
                    os.close(descriptor)
        # Whatever a library prints must not be read as an event.
        os.dup2(slot.log, 1)
        os.dup2(slot.log, 2)
        work(slot)
    except BaseException:  # noqa: BLE001 # a fork must not go on as the process that it was forked from
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def follow(lines: IO[str]) -> Iterator[dict[str, Any]]:
    """Lines as they come, read by a thread of its own so that their end is noticed at once."""
    read: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in lines:
            read.put(line)
        os._exit(NO_MORE_TASKS)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield json.loads(read.get())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [Slot(*map(int, words.split(","))) for words in sys.argv[3:]])
