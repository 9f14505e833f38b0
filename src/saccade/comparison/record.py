"""``comparison.json``: what a folder is a comparison of, and on which machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from saccade._checks import first_error
from saccade._files import is_temporary, write_text
from saccade.comparison.request import FILE as REQUEST
from saccade.comparison.request import Request, Variant
from saccade.errors import DataError, UsageError
from saccade.report.results import Finite, Measured
from saccade.training import TrainSettings

FILE, LOCK = "comparison.json", ".lock"


class ControlSetting(BaseModel):
    """What a control is, settled before the first trial: the host and the epochs that match the dearest variant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    epochs: int
    dearest: str
    ratio: Finite
    """The dearest variant's training step over the baseline's."""


class Tuned(BaseModel):
    """The learning rate and weight decay that a variant's tuning chose, on the validation images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: Finite
    weight_decay: Finite
    val_accuracy: Finite | None
    """None where every try failed: then they are those that were asked for."""
    failed: list[str] = []
    """Why tries failed that did."""


class Record(BaseModel):
    """The contents of ``comparison.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["saccade.comparison/1"] = Field(alias="schema")
    asked: Request
    data_digest: str
    file_digest: str | None = None
    """Of the file that the host comes from, where it comes from one."""
    environment: dict[str, str]
    threads_per_trial: int
    costs: dict[str, Measured]
    """By variant or control, measured once before the first trial."""
    unable: dict[str, str] = {}
    """Why a variant cannot be run, where it cannot."""
    controls: dict[str, ControlSetting] = {}
    tuned: dict[str, Tuned] = {}
    """By variant, once all have been tuned."""

    def model(self, variant: Variant) -> str:
        """The host of a variant or control."""
        return self.controls[variant.name].model if variant.control else self.asked.model

    def settings(self, variant: Variant) -> TrainSettings:
        """How a variant or control is trained: as all are, but for a control's epochs and what was tuned."""
        settings = self.asked.settings
        if variant.control:
            settings = settings.model_copy(update={"epochs": self.controls[variant.name].epochs})
        tuned = self.tuned.get(self.asked.variants[0].name if variant.control else variant.name)
        return settings if tuned is None else with_optim(settings, tuned.lr, tuned.weight_decay)


def with_optim(settings: TrainSettings, lr: float, weight_decay: float) -> TrainSettings:
    """The same training with another learning rate and weight decay."""
    optim = settings.optim.model_copy(update={"lr": lr, "weight_decay": weight_decay})
    return settings.model_copy(update={"optim": optim})


def environment() -> dict[str, str]:
    """The machine and the versions that numbers depend on."""
    packages = ("saccade", "torch", "lightning", "numpy", "scipy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "cores": str(usable_cores()),
    }


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer where a container has a quota of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota = quota_cores(Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii"))
    except OSError:
        quota = None
    return bound if quota is None else min(bound, quota)


def quota_cores(cpu_max: str) -> int | None:
    """Whole cores that a control group's ``cpu.max`` grants, at least one; None where it sets no limit."""
    quota, period = cpu_max.split()
    return None if quota == "max" else max(1, int(quota) // int(period))


def write_record(record: Record, out: Path) -> None:
    """Write what is known of a comparison into its folder."""
    write_text(out / REQUEST, json.dumps(record.asked.words, indent=2) + "\n")
    write_text(out / FILE, record.model_dump_json(indent=2, by_alias=True) + "\n")


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """While something is written into a folder, its disk may be full.

    Raises:
        DataError: it is, or the folder cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{folder} cannot be written: {error}; trials that are done are saved. Make room and run the same command "
            "again (TMPDIR says where temporary files go)"
        ) from error


@contextmanager
def alone(out: Path, asked: Request) -> Iterator[None]:
    """Keep a folder for one comparison while it lasts.

    Raises:
        UsageError: another process works on it.
    """
    find_record(out, asked)  # nothing is left in a folder that is not ours
    lock = FileLock(out / LOCK, blocking=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"`out` (={str(out)!r}): another process is at work on this comparison; wait for it, or name a new folder "
            "with --out"
        ) from None
    except OSError as error:
        raise UsageError(f"`out` (={str(out)!r}) cannot be written: {error}; name another folder with --out") from None
    try:
        yield
    finally:
        lock.release()
        if [path.name for path in out.iterdir()] == [LOCK]:  # a mistake was found before anything was begun
            (out / LOCK).unlink()
            out.rmdir()


def read_record(out: Path) -> Record:
    """What the folder of a comparison was made for; a foreign or broken file is an error that says so."""
    path = out / FILE
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        where, _, message = first_error(error)
        raise DataError(f"{path} is not a comparison of this version: {where}: {message}") from None


def find_record(out: Path, asked: Request) -> Record | None:
    """The record in a folder, None where the folder is new.

    Raises:
        UsageError: the folder holds another comparison, or other files.
    """
    if not out.exists() or (out.is_dir() and all(map(_is_begun, out.iterdir()))):
        return None
    if not (out / FILE).is_file():
        raise UsageError(f"`out` (={str(out)!r}) exists and holds no comparison; name a new folder with --out")
    record = read_record(out)
    # As they are in the file: an option that was given as a tuple has become a list there.
    was, now = record.asked.model_dump(mode="json"), asked.model_dump(mode="json")
    if was != now:
        changed = ", ".join(name for name in now if was[name] != now[name])
        raise UsageError(
            f"`out` (={str(out)!r}) holds another comparison: it differs in {changed}; name a new folder with --out. "
            f"It was made by: {record.asked.command(out)}"
        )
    return record


def _is_begun(path: Path) -> bool:
    """Whether it may be there though a comparison was killed before its record was."""
    return path.name in (LOCK, REQUEST) or is_temporary(path)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
