"""The results file of a comparison: its schema, writing and reading. Everything in a report comes from here."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saccade._checks import first_error
from saccade._files import write_text
from saccade.errors import DataError

SCHEMA = "saccade.results/1"
HELPS, HURTS, NO_DIFFERENCE, TOO_FEW = "helps", "hurts", "no difference shown", "too few runs"
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """Part of a results file. Unknown keys are kept out by name, so that a typing error cannot pass as data."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Difference(Record):
    """Variant minus baseline over the seeds both have, in the unit of the scores; null where the runs give none."""

    mean: Finite
    low: Finite | None
    high: Finite | None
    p: Finite | None


class EpochRecord(Record):
    """A point of a learning curve."""

    epoch: int
    train_loss: Finite
    val_accuracy: Finite


class Against(Record):
    """A variant beside a control, in the words of the comparison with the baseline."""

    difference: Difference | None
    verdict: str
    seeds_to_decide: int | None


class ImageChange(Record):
    """How the trained networks of a variant differ from the baseline's on the test images: of these networks alone."""

    gained: Finite
    """Share of the images that the variant's network names right and the baseline's of the same seed does not."""
    lost: Finite
    low: Finite
    """Of a 95 % interval of gained - lost over other images, these networks given."""
    high: Finite


class Measured(Record):
    """Where attention stands in a network, and what the network costs: per image, or a batch where that is said."""

    at: str | None
    sites: list[str]
    params: int | None
    """Null, as all below, of a network that could not be built, or failed or made its process die in being measured."""
    state_bytes: int | None = None
    """Of the weights in a file."""
    macs: int | None = None
    latency_ms: Finite | None = None
    """The median, of one image."""
    latency_p95_ms: Finite | None = None
    latency_compiled_ms: Finite | None = None
    """By torch.compile, where that was asked for; else, or where it failed, with the reason, null."""
    compile_error: str | None = None
    images_per_s: Finite | None = None
    """Of a batch, in eval mode."""
    train_step_ms: Finite | None = None
    """The median, of a batch; so is the memory."""
    peak_memory_mib: Finite | None = None


class VariantResult(Measured):
    """One variant: what it costs, what its trials scored, and what follows from that."""

    name: str
    label: str
    options: dict[str, Any]
    start: Literal["paper", "identity"] | None
    scores: list[Finite | None]
    mean: Finite | None
    difference: Difference | None
    verdict: str | None
    seeds_to_decide: int | None
    curves: list[list[EpochRecord]]
    # Further detail, for the report.
    model: str | None = None
    """A control's host, where it is another."""
    epochs: int | None = None
    lr: Finite | None = None
    weight_decay: Finite | None = None
    against: dict[str, Against] = {}
    """By the name of a control."""
    images: ImageChange | None = None
    per_class: list[list[Finite | None]] = []
    """By seed, the share of each class's test images that were named right; null where a class has none."""


class FailedTrial(Record):
    """A trial without a score, and why."""

    name: str
    seed: int
    reason: str


class Results(Record):
    """``results.json``. Scores are fractions; the margin is in points, 0.5 meaning 0.005."""

    schema_: Literal["saccade.results/1"] = Field(alias="schema")
    metric: Literal["accuracy"] = "accuracy"
    baseline: str
    margin: Finite
    seeds: list[int]
    data: str
    model: str
    epochs: int
    variants: list[VariantResult]
    controls: list[VariantResult] = []
    failed: list[FailedTrial]
    # Further detail, for the report.
    classes: list[str]
    images: dict[str, int]
    input_shape: list[int]
    batch_size: int
    environment: dict[str, str]
    command: str
    notes: list[str]


def write_results(results: Results, folder: Path) -> None:
    """Write ``results.json`` and ``results.csv`` into a comparison's folder."""
    write_text(folder / "results.json", results.model_dump_json(indent=2, by_alias=True) + "\n")
    write_text(folder / "results.csv", results_csv(results))


def read_results(folder: Path) -> Results:
    """Read ``results.json`` back; a missing, broken or foreign file is an error that says so."""
    path = folder / "results.json"
    try:
        return Results.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{folder} holds no results.json: it is no folder of a finished comparison") from None
    except ValidationError as error:
        where, _, message = first_error(error)
        raise DataError(f"{path} is not a results file of schema {SCHEMA!r}: {where}: {message}") from None


def results_csv(results: Results) -> str:
    """One row per trial: variant, seed, score (empty where the trial failed)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "seed", "accuracy"])
    for variant in (*results.variants, *results.controls):
        for seed, score in zip(results.seeds, variant.scores, strict=True):
            writer.writerow([variant.name, seed, "" if score is None else score])
    return text.getvalue()
