"""A process that runs trials, one after another, with one thread: ``python -m saccade.comparison.worker FOLDER DATA``.

It reads one trial per line from standard input and writes what happens, one JSON object per line, to standard output.
It ends when its standard input ends, also in the middle of a trial: no trial outlives its comparison.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any


def main(folder: str, data_file: str) -> None:
    """Serve trials of the comparison in ``folder`` on the images in ``data_file`` until standard input ends."""
    # Whatever a library prints must not be read as an event.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    import torch

    from saccade._files import write_text
    from saccade.comparison.record import read_record
    from saccade.comparison.trial import ERROR, Trial, run_trial, trial_folder
    from saccade.data import ImageData

    torch.set_num_threads(1)
    out = Path(folder)
    record = read_record(out)
    data = ImageData.load(Path(data_file))

    def tell(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")

    for task in _tasks():
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


def _tasks() -> Any:
    """Lines of standard input as they come, read by a thread of their own so that its end is noticed at once."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())


if __name__ == "__main__":
    main(*sys.argv[1:])
