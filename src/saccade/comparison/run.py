"""``saccade.compare``: variants x seeds, trained under one recipe, and the verdicts that follow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade._checks import check_int
from saccade.comparison.control import settle
from saccade.comparison.pool import Event, Pool
from saccade.comparison.record import Record, Tuned, alone, environment, find_record, room, usable_cores, write_record
from saccade.comparison.request import DEFAULT_ATTENTION, DEFAULT_MODEL, Request, make_request
from saccade.comparison.summarise import summarise
from saccade.comparison.trial import Trial, candidates, read_result
from saccade.data import ImageData, load_data
from saccade.errors import UsageError
from saccade.nets import Host
from saccade.report.answer import answer
from saccade.report.html import write_report
from saccade.report.results import FailedTrial, Results, write_results

COSTS = ("params", "macs", "latency_ms", "train_step_ms")


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder and its results."""

    folder: Path
    results: Results

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.folder / "report.html"

    def to_pandas(self) -> Any:
        """A table with a row for every trial: variant, seed, accuracy (NaN where it failed), and the variant's costs.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError:
            raise UsageError("to_pandas() needs pandas: pip install pandas") from None
        results = self.results
        return pandas.DataFrame(
            {
                "variant": variant.name,
                "seed": seed,
                "accuracy": float("nan") if score is None else score,
                **{name: getattr(variant, name) for name in COSTS},
            }
            for variant in (*results.variants, *results.controls)
            for seed, score in zip(results.seeds, variant.scores, strict=True)
        )

    def __str__(self) -> str:
        return f"{answer(self.results)} ({self.report})"

    __repr__ = __str__


@dataclass(frozen=True)
class Setting:
    """What is known before the first trial: told to the caller, to be shown."""

    record: Record
    command: str
    """What to run to go on with the comparison after an interruption."""
    trials: list[Trial]
    done: dict[Trial, float]
    jobs: int
    notes: list[str]


def compare(
    model: str = DEFAULT_MODEL,
    data: str = "sample",
    *,
    attention: str | Sequence[str | Mapping[str, Any]] = DEFAULT_ATTENTION,
    at: str | Sequence[str] | None = None,
    start: str | None = None,
    pretrained: bool = False,
    seeds: int | Sequence[int] = 5,
    epochs: int = 6,
    batch_size: int = 64,
    lr: float | None = None,
    weight_decay: float = 5e-4,
    image_size: int | None = None,
    margin: float = 0.5,
    control: str | Sequence[str] = (),
    tune: int = 0,
    compile: bool = False,
    jobs: int | None = None,
    out: str | Path = "saccade-compare",
    on_setting: Callable[[Setting], None] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Comparison:
    """Train every variant with every seed and tell which attention helped.

    Per seed all variants start from the same host weights and see the same batches and augmentation. A variant's
    difference to the baseline is taken seed by seed; see :mod:`saccade.comparison.statistics` for the test.

    Args:
        model: the host: a timm name, ``torchvision:NAME``, ``saccade:NAME`` with options, such as
            ``saccade:cifar_resnet(depth=20)``, or ``path/to/file.py:function``.
        data: ``sample`` (embedded), ``cifar10``, ``cifar100``, or ``imagefolder:PATH``.
        attention: variants, ``"none,se,gam(reduction=8),plan(file='plan.json')"`` or a list of such; an entry may also
            be a mapping with ``attention`` (or ``plan``) and ``options``, ``at``, ``start``, ``name`` of its own.
            ``none`` is the baseline and is added where it is missing.
        at: where attention goes: kinds of site, paths or globs. By default gates stand at the end of every residual
            branch, and attention over positions in the two deepest stages of our hosts, since its cost grows with the
            square of the map.
        start: ``"paper"`` or ``"identity"``, as in :func:`saccade.augment`; by default identity for a pretrained host.
        pretrained: start every trial from the library's weights, with a head for the classes of the data.
        seeds: how many, from 0, or which.
        epochs, batch_size, lr, weight_decay: of the training: SGD with momentum, warm-up and cosine. ``lr`` is 0.1 by
            default, 0.01 for a pretrained host.
        image_size: the side to which images of a folder are brought, by default 32, or 224 for a pretrained host.
        margin: the smallest difference that matters to you, in points.
        control: ``longer`` (the baseline trained for the compute of the dearest variant), ``wider`` (a wider host of as
            much compute), or both; each variant is then compared with these, too.
        tune: how many learning rates and weight decays to try for the baseline and for each variant, on the validation
            images, before the comparison.
        compile: also measure the latency by ``torch.compile``, which takes up to a minute for each variant.
        jobs: processes, one thread each; by default, and at most, as many as there are cores.
        out: the folder of the comparison. Called again with the same arguments it skips trials that are done.
        on_setting, on_event: told of the setting once, and of every event of a trial.

    Returns:
        The comparison; ``results.json``, ``results.csv`` and ``report.html`` are in its folder.

    Raises:
        UsageError, DataError: arguments or images that cannot work, before anything is trained; a folder in which
            another comparison is under way.
        TrialError: the process died that starts the others; what is done is saved.
    """
    request = make_request(
        model=model, data=data, attention=attention, at=at, start=start, pretrained=pretrained, seeds=seeds,
        epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, image_size=image_size, margin=margin,
        control=control, tune=tune, compile=compile,
    )  # fmt: skip
    if not isinstance(out, (str, Path)):
        raise UsageError(f"`out` (={out!r}) must be the path of a folder")
    if not hasattr(os, "fork"):
        raise UsageError("comparisons need a system whose processes can fork: Linux, for instance, or WSL on Windows")
    folder, notes = Path(out), []
    again = "" if jobs is None else f" --jobs {jobs}"
    jobs = _jobs(jobs, notes)
    with alone(folder, request):
        record = find_record(folder, request)
        images = load_data(data, request.image_size)
        notes += [*images.notes, *_coarse_test(images, margin)]
        most = len(request.trained) * max(len(request.seeds), request.tune)
        with Pool(folder, images, min(jobs, most)) as pool:
            record = (
                _begin(folder, request, images, pool) if record is None else _continue(record, folder, images, notes)
            )
            notes += [
                f"{name} cannot be compiled: {cost.compile_error}"
                for name, cost in record.costs.items()
                if cost.compile_error is not None
            ]
            trials = _trials(record)
            done = {trial: score for trial in trials if (score := read_result(folder, trial)) is not None}
            if on_setting is not None:
                on_setting(
                    Setting(record, request.command(folder) + again, trials, done, min(jobs, len(trials)), notes)
                )
            if request.tune and not record.tuned:
                record = _tune(record, folder, pool, on_event)
            waiting = [trial for trial in trials if trial not in done and trial.candidate is None]
            reasons = _run(pool, waiting, on_event)
        reasons |= {Trial(name, seed): why for name, why in record.unable.items() for seed in request.seeds}
        failed = [FailedTrial(name=each.variant, seed=each.seed, reason=why) for each, why in reasons.items()]
        results = summarise(record, images, folder, failed, notes)
        with room(folder):
            write_results(results, folder)
            write_report(folder)
    return Comparison(folder, results)


def _trials(record: Record) -> list[Trial]:
    """All that a comparison trains, in its order: what takes longest first within a seed."""
    request = record.asked
    tuned, trained = (
        [each.name for each in part if each.name not in record.unable] for part in (request.variants, request.trained)
    )
    tuning = [Trial(name, request.tuning_seed, number) for number in range(request.tune) for name in tuned]
    return tuning + [Trial(name, seed) for seed in request.seeds for name in reversed(trained)]


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


def _begin(folder: Path, request: Request, images: ImageData, pool: Pool) -> Record:
    costs, unable = pool.measure(request, request.variants)
    baseline = request.variants[0].name
    if baseline in unable:
        raise UsageError(f"{request.model} cannot be trained on images of {images.shape}: {unable[baseline]}")
    controls = settle(request, images, costs)
    # The longer control is the baseline itself; the wider one is another network.
    costs |= dict.fromkeys(controls, costs[baseline])
    hosts = {name: each.model for name, each in controls.items() if each.model != request.model}
    others = [control for control in request.controls if control.name in hosts]
    wider, failures = pool.measure(request, others, hosts)
    costs, unable = costs | wider, unable | failures
    record = Record(
        schema="saccade.comparison/1",
        asked=request,
        data_digest=images.digest,
        file_digest=Host.parse(request.model).fingerprint(),
        environment=environment(),
        threads_per_trial=1,
        costs=costs,
        unable=unable,
        controls=controls,
    )
    with room(folder):
        write_record(record, folder)
    return record


def _continue(record: Record, folder: Path, images: ImageData, notes: list[str]) -> Record:
    if record.data_digest != images.digest:
        raise UsageError(
            f"the images of {images.name!r} have changed since the comparison in {str(folder)!r} was begun; "
            "name a new folder with --out"
        )
    if record.file_digest != Host.parse(record.asked.model).fingerprint():
        raise UsageError(
            f"the file of {record.asked.model} has changed since the comparison in {str(folder)!r} was begun; name a "
            "new folder with --out"
        )
    here = environment()
    changed = [name for name in here if record.environment.get(name) != here[name]]
    if changed:
        notes.append(f"the comparison was begun with another {', '.join(changed)}: its trials may not be comparable")
    return record


def _tune(record: Record, folder: Path, pool: Pool, on_event: Callable[[Event], None] | None) -> Record:
    """Try every candidate with every variant, and keep the best of each on the validation images."""
    request = record.asked
    trials = [trial for trial in _trials(record) if trial.candidate is not None]
    waiting = [trial for trial in trials if read_result(folder, trial) is None]
    failed = _run(pool, waiting, on_event)
    tried, tuned = candidates(request), {}
    for variant in request.variants:
        mine = [trial for trial in trials if trial.variant == variant.name]
        scores = [-1.0 if (score := read_result(folder, trial)) is None else score for trial in mine]
        if not mine:
            continue
        best = scores.index(max(scores))  # where all failed the first, which is what was asked for
        optim, score = tried[best].optim, scores[best] if scores[best] >= 0 else None
        reasons = [failed[trial] for trial in mine if trial in failed]
        tuned[variant.name] = Tuned(lr=optim.lr, weight_decay=optim.weight_decay, val_accuracy=score, failed=reasons)
    record = record.model_copy(update={"tuned": tuned})
    with room(folder):
        write_record(record, folder)
    return record


def _run(pool: Pool, trials: list[Trial], on_event: Callable[[Event], None] | None) -> dict[Trial, str]:
    """Run what is to be run; gives why each that failed did."""
    failed: dict[Trial, str] = {}
    for event in pool.run(trials):
        if event.kind == "failed":
            failed[event.trial] = event.detail["reason"]
        if on_event is not None:
            on_event(event)
    return failed
