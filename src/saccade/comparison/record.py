"""``comparison.json``: what a folder is a comparison of, and on which machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saccade.comparison.request import Request
from saccade.errors import DataError, UsageError
from saccade.report.results import Finite, write_atomic

FILE = "comparison.json"


class VariantCost(BaseModel):
    """Where a variant's attention stands and what it costs, measured once before the first trial."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sites: list[str]
    at: str | None
    params: int
    macs: int
    latency_ms: Finite
    train_step_ms: Finite


class Record(BaseModel):
    """The contents of ``comparison.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["saccade.comparison/1"] = Field(alias="schema")
    asked: Request
    data_digest: str
    environment: dict[str, str]
    threads_per_trial: int
    costs: dict[str, VariantCost]


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
    """Make the folder of a comparison."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / FILE, record.model_dump_json(indent=2, by_alias=True) + "\n")
    except OSError as error:
        raise UsageError(f"`out` (={str(out)!r}) cannot be written: {error}; name another folder with --out") from None


def read_record(out: Path) -> Record:
    """What the folder of a comparison was made for; a foreign or broken file is an error that says so."""
    path = out / FILE
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is not a comparison of this version: {where}: {first['msg']}") from None


def find_record(out: Path, asked: Request) -> Record | None:
    """The record in a folder, None where the folder is new.

    Raises:
        UsageError: the folder holds another comparison, or other files.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
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
            f"It was made by: {record.asked.command}"
        )
    return record


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
