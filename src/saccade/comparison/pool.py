"""Measure costs and run trials in worker processes."""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, Self

from saccade import errors
from saccade.comparison.processes import Server, Worker
from saccade.comparison.record import room
from saccade.comparison.request import Request, Variant
from saccade.comparison.trial import Trial
from saccade.comparison.worker import AT_WORK, IMAGES
from saccade.data import ImageData
from saccade.errors import TrialError
from saccade.report.results import Measured

Kind = Literal["started", "epoch", "finished", "failed"]
UNKNOWN = Measured(at=None, sites=[], params=None)


@dataclass(frozen=True)
class Event:
    """What happened to a trial. ``detail`` holds an epoch's numbers, a score, or the reason of a failure."""

    kind: Kind
    trial: Trial
    detail: dict[str, Any] = field(default_factory=dict)


Waiting = queue.SimpleQueue[Trial | None]
Events = queue.SimpleQueue[Event | BaseException | None]


class _Processes(NamedTuple):
    server: Server
    measuring: Worker
    training: list[Worker]
    scratch: Path


class Pool:
    """A process that measures, then ``jobs`` processes that run trials, of one thread each.

    They are started when there is something to do, and end when the pool is left, whatever they are at.
    """

    def __init__(self, out: Path, images: ImageData, jobs: int) -> None:
        self.out, self.images, self.jobs = out, images, jobs
        self.stack = ExitStack()
        self.started: _Processes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.started is not None:
            for worker in (self.started.measuring, *self.started.training):
                worker.dismiss()
            self.started.server.wait()
        self.stack.close()

    def _start(self) -> _Processes:
        if self.started is None:
            scratch = Path(self.stack.enter_context(TemporaryDirectory(prefix="saccade-")))
            with room(scratch):
                self.images.save(scratch / IMAGES)
            workers = [Worker() for _ in range(1 + self.jobs)]
            for worker in workers:
                self.stack.callback(worker.close)
            # -P: a file in the user's folder, a random.py say, must not be imported in a library's place.
            command = [sys.executable, "-P", "-m", "saccade.comparison.worker", str(self.out), str(scratch)]
            server = self.stack.enter_context(Server(workers, command))
            self.started = _Processes(server, workers[0], workers[1:], scratch)
        return self.started

    def measure(
        self, request: Request, variants: Sequence[Variant], hosts: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Measured], dict[str, str]]:
        """What each variant costs, and why some cannot be run: :func:`measure_costs` in a process of its own.

        A variant at which that process fails or dies is tried again alone, since memory may not have sufficed for all
        at once, and the rest without it.

        Raises:
            UsageError, DataError: a variant that cannot be built as it was asked for.
            TrialError: the process died twice, at no variant.
        """
        if not variants:
            return {}, {}
        told = self._ask(request, variants, hosts or {})
        if told["event"] == "measured":
            return {name: Measured.model_validate(cost) for name, cost in told["costs"].items()}, told["unable"]
        suspect = variants[told["variant"]]
        if len(variants) == 1:
            return {suspect.name: UNKNOWN}, {suspect.name: told["reason"]}
        costs, unable = self.measure(request, [suspect], hosts)
        if request.variants[0].name not in unable:  # where the host alone fails, the rest is in vain
            rest, others = self.measure(request, [each for each in variants if each is not suspect], hosts)
            costs, unable = costs | rest, unable | others
        return costs, unable

    def _ask(self, request: Request, variants: Sequence[Variant], hosts: Mapping[str, str]) -> dict[str, Any]:
        """What the measuring process tells; of a failure also the number of the variant."""
        server, measuring, _, scratch = self._start()
        task = {
            "request": request.model_dump(mode="json"),
            "variants": [each.name for each in variants],
            "hosts": dict(hosts),
        }
        reason = ""
        for _ in range(2):  # one that died before it was asked was at no variant, and another is there now
            (scratch / AT_WORK).write_bytes(b"")
            told = next(measuring.ask(task, server))
            if told["event"] == "refused":
                raise getattr(errors, told["error"])(told["message"])
            if told["event"] == "measured":
                return told
            process, _, variant = (scratch / AT_WORK).read_text(encoding="ascii").partition(" ")
            if process == str(told["process"]):
                return told | {"variant": int(variant)}
            reason = told["reason"]
        raise TrialError(f"costs cannot be measured: {reason}; run the same command again")

    def run(self, trials: Sequence[Trial]) -> Iterator[Event]:
        """Run trials and yield events as they come. A process that dies fails its trial, and another takes its place.

        Raises:
            TrialError: the process ended of which they are forks: with it nothing can be run.
        """
        if not trials:
            return
        server, measuring, training, _ = self._start()
        measuring.dismiss()
        waiting: Waiting = queue.SimpleQueue()
        events: Events = queue.SimpleQueue()
        for trial in trials:
            waiting.put(trial)
        for worker in training:
            waiting.put(None)
            worker.start(lambda worker=worker: _serve(worker, server, waiting, events))
        ended = 0
        while ended < len(training):
            event = events.get()
            if event is None:
                ended += 1
            elif isinstance(event, BaseException):
                raise event
            else:
                yield event


def _serve(worker: Worker, server: Server, waiting: Waiting, events: Events) -> None:
    """Hand on trials until there is none left."""
    try:
        while (trial := waiting.get()) is not None:
            for event in run_trial(trial, worker, server):
                events.put(event)
    except BaseException as error:  # noqa: BLE001 # carried to the thread that reads the events
        events.put(error)
    events.put(None)


def run_trial(trial: Trial, worker: Worker, server: Server) -> Iterator[Event]:
    """The events of a trial at one worker."""
    yield Event("started", trial)
    for told in worker.ask({"trial": asdict(trial)}, server):
        kind = told.pop("event")
        yield Event(kind, trial, told)
        if kind != "epoch":
            return
