"""``saccade.compare``: variants x seeds, trained under one recipe, and the verdicts that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from saccade._checks import check_int
from saccade.comparison.measure import measure_costs
from saccade.comparison.pool import Event, run_trials
from saccade.comparison.record import Record, environment, find_record, usable_cores, write_record
from saccade.comparison.request import DEFAULT_ATTENTION, DEFAULT_MODEL, Request, make_request
from saccade.comparison.summarise import command_of, summarise
from saccade.comparison.trial import read_result
from saccade.data import ImageData, load_data
from saccade.errors import UsageError
from saccade.report.answer import answer
from saccade.report.html import write_report
from saccade.report.results import FailedTrial, Results, write_results


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder and its results."""

    folder: Path
    results: Results

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.folder / "report.html"

    def __str__(self) -> str:
        return f"{answer(self.results)} ({self.report})"

    __repr__ = __str__


@dataclass(frozen=True)
class Setting:
    """What is known before the first trial: told to the caller, to be shown."""

    record: Record
    command: str
    """What to run to go on with the comparison after an interruption."""
    done: dict[tuple[str, int], float]
    jobs: int
    notes: list[str]


def compare(
    model: str = DEFAULT_MODEL,
    data: str = "sample",
    *,
    attention: str | Sequence[str] = DEFAULT_ATTENTION,
    at: str | Sequence[str] | None = None,
    start: str = "paper",
    seeds: int | Sequence[int] = 5,
    epochs: int = 6,
    batch_size: int = 64,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    image_size: int = 32,
    margin: float = 0.5,
    jobs: int | None = None,
    out: str | Path = "saccade-compare",
    on_setting: Callable[[Setting], None] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Comparison:
    """Train every variant with every seed and tell which attention helped.

    Per seed all variants start from the same host weights and see the same batches and augmentation. A variant's
    difference to the baseline is taken seed by seed; see :mod:`saccade.comparison.statistics` for the test.

    Args:
        model: the host, ``saccade:NAME`` with options, such as ``saccade:cifar_resnet(depth=20)``.
        data: ``sample`` (embedded), or ``imagefolder:PATH``.
        attention: variants, ``"none,se,gam(reduction=8)"`` or a list of such. ``none`` is the baseline and is added
            where it is missing.
        at: where attention goes: kinds of site, paths or globs. By default gates stand at the end of every residual
            branch, and attention over positions in the two deepest stages, since its cost grows with the square of the
            map.
        start: ``"paper"`` or ``"identity"``, as in :func:`saccade.augment`.
        seeds: how many, from 0, or which.
        epochs, batch_size, lr, weight_decay: of the training: SGD with momentum, warm-up and cosine.
        image_size: the side to which images of a folder are brought.
        margin: the smallest difference that matters to you, in points.
        jobs: processes, one thread each; by default, and at most, as many as there are cores.
        out: the folder of the comparison. Called again with the same arguments it skips trials that are done.
        on_setting, on_event: told of the setting once, and of every event of a trial.

    Returns:
        The comparison; ``results.json``, ``results.csv`` and ``report.html`` are in its folder.

    Raises:
        UsageError, DataError: arguments or images that cannot work, before anything is trained.
    """
    request = make_request(
        model=model,
        data=data,
        attention=attention,
        at=at,
        start=start,
        seeds=seeds,
        margin=margin,
        image_size=image_size,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
    )
    folder, notes = Path(out), []
    again = "" if jobs is None else f" --jobs {jobs}"
    jobs = _jobs(jobs, notes)
    record = find_record(folder, request)
    images = load_data(data, image_size)
    notes += [*images.notes, *_coarse_test(images, margin)]
    record = _begin(folder, request, images) if record is None else _continue(record, folder, images, notes)
    tasks = [(variant.name, seed) for seed in request.seeds for variant in reversed(request.variants)]
    done = {task: score for task in tasks if (score := read_result(folder, *task)) is not None}
    if on_setting is not None:
        on_setting(Setting(record, command_of(record, folder) + again, done, min(jobs, len(tasks)), notes))
    failed = _run([task for task in tasks if task not in done], folder, images, jobs, on_event)
    results = summarise(record, images, folder, failed, notes)
    write_results(results, folder)
    write_report(folder)
    return Comparison(folder, results)


def _jobs(jobs: int | None, notes: list[str]) -> int:
    cores = usable_cores()
    if jobs is None:
        return cores
    check_int("jobs", jobs)
    if jobs > cores:
        notes.append(f"{jobs} jobs were asked for; {cores} run at a time, one for each core of this machine")
    return min(jobs, cores)


def _coarse_test(images: ImageData, margin: float) -> list[str]:
    """A note where one test image weighs more than the margin."""
    step = 100 / len(images.test)
    note = (
        f"one of the {len(images.test)} test images is worth {step:.2g} points, more than the margin of {margin:g}: "
        "with so few, differences that matter cannot be told from luck"
    )
    return [note] if step > margin else []


def _begin(folder: Path, request: Request, images: ImageData) -> Record:
    with torch.random.fork_rng(devices=[]):
        costs = measure_costs(request, images)
    record = Record(
        schema="saccade.comparison/1",
        asked=request,
        data_digest=images.digest,
        environment=environment(),
        threads_per_trial=1,
        costs=costs,
    )
    write_record(record, folder)
    return record


def _continue(record: Record, folder: Path, images: ImageData, notes: list[str]) -> Record:
    if record.data_digest != images.digest:
        raise UsageError(
            f"the images of {images.name!r} have changed since the comparison in {str(folder)!r} was begun; "
            "name a new folder with --out"
        )
    here = environment()
    changed = [name for name in here if record.environment.get(name) != here[name]]
    if changed:
        notes.append(f"the comparison was begun with another {', '.join(changed)}: its trials may not be comparable")
    return record


def _run(
    tasks: list[tuple[str, int]], folder: Path, images: ImageData, jobs: int, on_event: Callable[[Event], None] | None
) -> list[FailedTrial]:
    failed: list[FailedTrial] = []
    if not tasks:
        return failed
    with TemporaryDirectory(prefix="saccade-") as scratch:
        data_file = Path(scratch) / "images.safetensors"
        images.save(data_file)
        # Closed at once when something interrupts, so that no process trains on.
        with closing(run_trials(tasks, folder, data_file, jobs)) as events:
            for event in events:
                if event.kind == "failed":
                    failed.append(FailedTrial(name=event.variant, seed=event.seed, reason=event.detail["reason"]))
                if on_event is not None:
                    on_event(event)
    return failed
