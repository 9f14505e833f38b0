"""What ``saccade train RECIPE --dry-run`` prints."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch

from saccade._api import plan_of
from saccade.data import load_data
from saccade.profiling.cost import measure
from saccade.report.numbers import SPACE, count, plural
from saccade.training.optim import make_factor
from saccade.training.recipe import Recipe
from saccade.training.run import build

MOST_TIMED = 8  # images in the step that is timed: of a batch of 1,024 a CPU takes minutes


def print_dry_run(recipe: Recipe, *, data_dir: Path | None, skip_bad: bool) -> None:
    """The network and its cost, the steps and their learning rates, and how long they take on this machine."""
    for line in _lines(recipe, data_dir, skip_bad=skip_bad):
        print(line.replace(SPACE, " "))


def _lines(recipe: Recipe, data_dir: Path | None, *, skip_bad: bool) -> Iterable[str]:
    data = load_data(recipe.data, recipe.image_size, data_dir, skip_bad=skip_bad)
    model = build(recipe, data)
    edits = plan_of(model).edits
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = min(recipe.batch_size, MOST_TIMED)
    cost = measure({recipe.model: model}, torch.randn(size, *data.shape), device=device)[recipe.model]
    batches = len(data.train) // recipe.batch_size
    steps = recipe.epochs * math.ceil(batches / recipe.accumulate)
    yield recipe.model
    for name in dict.fromkeys(edit.attention for edit in edits):
        yield f"  {name} at {plural(sum(edit.attention == name for edit in edits), 'site')}"
    channels, height, width = data.shape
    yield (
        f"  {count(cost.params)} parameters, {count(cost.macs_per_image)} MACs for an image of {channels} x {height} x "
        f"{width}"
    )
    yield f"{data.name}: {len(data.train)} images to train on, {len(data.classes)} classes"
    yield (
        f"{plural(recipe.epochs, 'epoch')} of {batches} batches of {recipe.batch_size}: "
        f"{plural(steps, 'step')} by {recipe.optim.name}"
    )
    yield "learning rate: " + ", ".join(_rates(recipe, steps))
    assert cost.train_step_ms is not None, "training steps were measured"
    seconds = recipe.epochs * batches * recipe.batch_size / size * cost.train_step_ms / 1e3
    yield (
        f"a step of {plural(size, 'image')} takes {cost.train_step_ms:.0f} ms on this {device}: {_duration(seconds)} "
        "in all, without reading images and validation"
    )


def _rates(recipe: Recipe, steps: int) -> Iterable[str]:
    """The learning rate where it turns: at the first step, after the warm-up, at milestones, at the last step."""
    factor, schedule = make_factor(recipe.schedule, steps), recipe.schedule
    turns = [0, round(steps * schedule.warmup), *(round(steps * share) for share in schedule.milestones), steps - 1]
    for step in dict.fromkeys(min(turn, steps - 1) for turn in turns):
        yield f"{recipe.optim.lr * factor(step):.3g} from step {step + 1}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 172800 else f"{seconds / 86400:.0f} days"
