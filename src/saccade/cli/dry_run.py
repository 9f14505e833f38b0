"""What ``saccade train RECIPE --dry-run`` prints."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._api import plan_of
from saccade.data import ImageData, Split, TrainBatches, load_data
from saccade.profiling.macs import count_macs
from saccade.profiling.timing import time_each
from saccade.report.numbers import SPACE, count, plural
from saccade.training.fit import Machine, Trainer, make_trainer
from saccade.training.optim import make_factor, make_optimiser
from saccade.training.recipe import Recipe
from saccade.training.run import build

MOST_TIMED = 8  # images in the step that is timed: of a batch of 1,024 a CPU takes minutes
IMAGENET = Path("imagenet")  # where its recipes look for it
# Images to train on, of CIFAR without the 5,000 for validation, and classes.
PUBLISHED = {
    "cifar10": (45_000, 10),
    "cifar100": (45_000, 100),
    f"imagefolder:{IMAGENET},test=val": (1_281_167, 1000),
}


def print_dry_run(recipe: Recipe, *, machine: Machine, data_dir: Path | None, skip_bad: bool) -> None:
    """The network and its cost, the steps and their learning rates, and how long they take on this machine."""
    for line in _lines(recipe, machine, data_dir, skip_bad=skip_bad):
        print(line.replace(SPACE, " "))


def _lines(recipe: Recipe, machine: Machine, data_dir: Path | None, *, skip_bad: bool) -> Iterable[str]:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = make_trainer(recipe, machine, None)
    unread = _unread(recipe)
    data = _as_published(recipe) if unread else load_data(recipe.data, recipe.image_size, data_dir, skip_bad=skip_bad)
    model = build(recipe, data, sync_batchnorm=machine.sync_batchnorm)
    yield from _network(recipe, model, data.shape)
    source = f" (as published: {unread})" if unread else ""
    yield f"{data.name}: {len(data.train)} images to train on, {len(data.classes)} classes{source}"
    loader = TrainBatches(data, recipe.batch_size, recipe.seed, recipe.augment, world=trainer.world_size)
    batches, size = len(loader), loader.order.batch_size
    steps = recipe.epochs * math.ceil(batches / recipe.accumulate)
    yield (
        f"{plural(recipe.epochs, 'epoch')} of {batches} batch{'' if batches == 1 else 'es'} of "
        f"{size}{_why(size, recipe.batch_size, trainer.world_size)}: {plural(steps, 'step')} by {recipe.optim.name}"
    )
    yield "learning rate: " + ", ".join(_rates(recipe, steps))
    timed = min(size, MOST_TIMED)
    milliseconds = _step_ms(recipe, model, data, trainer, timed, compile=machine.compile)
    where = f"{trainer.strategy.root_device.type} in {recipe.precision}{', compiled' if machine.compile else ''}"
    yield f"a step of {plural(timed, 'image')} takes {milliseconds:.0f} ms on this {where}"
    total = _duration(recipe.epochs * batches * size / timed * milliseconds / 1e3)
    scaled = "" if size == timed else f", if one of {size} takes {size / timed:.3g} times that (a GPU takes less)"
    yield f"{total} in all{scaled}, without reading images and validation"


def _unread(recipe: Recipe) -> str:
    """Why the published sizes are taken, if they are: CIFAR would be downloaded, ImageNet is read where it is."""
    if recipe.data not in PUBLISHED:
        return ""
    if recipe.data.startswith("cifar"):
        return "the images are not read"
    return "" if IMAGENET.exists() else f"there is no folder {IMAGENET}"


def _as_published(recipe: Recipe) -> ImageData:
    """A data set of which only the sizes are there."""
    images, classes = PUBLISHED[recipe.data]
    side = 32 if recipe.data.startswith("cifar") else recipe.image_size
    with torch.device("meta"):
        split = Split(torch.empty(images, 3, side, side, dtype=torch.uint8), torch.empty(images, dtype=torch.int64))
    return ImageData(recipe.data, [str(number) for number in range(classes)], split, split, split)


def _network(recipe: Recipe, model: nn.Module, shape: tuple[int, int, int]) -> Iterable[str]:
    """Its name, what attends where, and its size."""
    edits = plan_of(model).edits
    yield recipe.model
    for name in dict.fromkeys(edit.attention for edit in edits):
        yield f"  {name} at {plural(sum(edit.attention == name for edit in edits), 'site')}"
    params, macs = sum(parameter.numel() for parameter in model.parameters()), count_macs(model, torch.zeros(1, *shape))
    channels, height, width = shape
    yield f"  {count(params)} parameters, {count(macs)} MACs for an image of {channels} x {height} x {width}"


def _why(size: int, asked: int, processes: int) -> str:
    """Why a batch is another than the recipe's."""
    fewer = f" (all there are, not {asked})" if size < asked else ""
    return f"{fewer} in each of {processes} processes" if processes > 1 else fewer


def _rates(recipe: Recipe, steps: int) -> Iterable[str]:
    """The learning rate where it turns: at the first step, after the warm-up, at milestones; at the last step if it
    falls all the time."""
    schedule, factor = recipe.schedule, make_factor(recipe.schedule, steps)
    rise, falls = round(steps * schedule.warmup), schedule.name in ("cosine", "exponential")
    turns = {0, rise, *(round(steps * share) for share in schedule.milestones)} | ({steps - 1} if falls else set())
    for step in sorted({min(turn, steps - 1) for turn in turns}):
        word = "at" if falls or step < rise else "from"
        yield f"{recipe.optim.lr * factor(step):.3g} {word} step {step + 1}"


def _step_ms(recipe: Recipe, model: nn.Module, data: ImageData, trainer: Trainer, size: int, *, compile: bool) -> float:
    """The median time of a step on random images, where and in the precision that the training would take it."""
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    model.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.train()
    if compile:
        model.compile()
    optimiser = make_optimiser(model, recipe.optim)
    images = torch.randn(size, *data.shape, device=device).contiguous(memory_format=torch.channels_last)
    labels: Tensor = torch.randint(len(data.classes), (size,), device=device)

    def step() -> None:
        optimiser.zero_grad()
        with precision.forward_context():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()

    return time_each({"step": step}, device=device)["step"].p50


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 172800 else f"{seconds / 86400:.0f} days"
