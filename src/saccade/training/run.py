"""Train a recipe into a folder, and evaluate what it left there."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from saccade._api import augment, plan_of
from saccade._checks import check_choice, check_device, check_int
from saccade.data import ImageData, load_data
from saccade.data.images import SPLITS, SplitName, check_classes
from saccade.errors import DataError, UsageError
from saccade.nets.hosts import Host
from saccade.training.build import as_the_weights_know, build_host
from saccade.training.checkpoints import read_checkpoint
from saccade.training.evaluate import Evaluation, evaluate
from saccade.training.fit import Folder, Machine, fit
from saccade.training.learner import Epoch
from saccade.training.recipe import Recipe

LOG = logging.getLogger("saccade")


@dataclass(frozen=True)
class Trained:
    """A finished run. Of several processes, only the first has an evaluation."""

    out: Path
    evaluation: Evaluation | None


def train(
    recipe: Recipe,
    out: Path | str,
    *,
    data_dir: Path | str | None = None,
    machine: Machine | None = None,
    save_every: int | None = None,
    skip_bad: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train a recipe; run again with the same folder, it goes on where it was and ends the same.

    Args:
        recipe: what to train.
        out: folder for checkpoints (``last.ckpt``, ``best.ckpt``), ``metrics.csv`` and ``recipe.json``.
        data_dir: where downloaded data sets are, or go.
        machine: devices, workers, loggers.
        save_every: steps between checkpoints within an epoch; at the end of each epoch one is written anyway.
        skip_bad: leave out images of a folder that cannot be read.
        on_epoch: told of every epoch.
        on_batch: told how many of how many batches are done.

    Raises:
        UsageError: a recipe that cannot work; a folder that holds another run.
        DataError: data or a checkpoint that cannot be read, a folder that cannot be written.
        TrialError: a loss that is no number; memory that ran out.
    """
    out, machine = Path(out), machine or Machine()
    if save_every is not None:
        check_int("save_every", save_every)
    _check_writable(out)
    data = load_data(recipe.data, recipe.image_size, data_dir, skip_bad=skip_bad)
    for note in data.notes:
        LOG.warning(note)
    model = build(recipe, data, sync_batchnorm=machine.sync_batchnorm)
    data = as_the_weights_know(recipe.model, model, data) if recipe.pretrained else data
    about = _about(recipe, data, model)
    learner = fit(
        model, data, recipe, recipe.seed, on_epoch,
        machine=machine, folder=Folder(out, about, save_every), on_batch=on_batch, test=True,
    )  # fmt: skip
    return Trained(out, learner.evaluation)


def build(recipe: Recipe, data: ImageData, *, sync_batchnorm: bool = False) -> nn.Module:
    """The network of a recipe before training: the host under the seed, attention under one derived from it.

    ``sync_batchnorm`` converts the host's BatchNorms before attention comes, since the conversion makes new modules.
    """
    model = build_host(recipe.model, data, recipe.seed, pretrained=recipe.pretrained)
    if sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for each in recipe.attention:
        model = augment(
            model,
            each.name,
            at=each.at,
            options=dict(each.options),
            start=each.start,
            stages=each.stages,
            max_positions=each.max_positions,
            example_input=torch.zeros(1, *data.shape),
            inplace=True,
        )
    return model


def make_logger(name: str, folder: Path) -> Any:
    """One of Lightning's loggers by its name, writing to a run's folder: ``tensorboard``, ``wandb``, ``mlflow``, ...

    Raises:
        UsageError: an unknown name; a package that is not installed.
    """
    from lightning.pytorch import loggers

    classes = {each.removesuffix("Logger").lower(): each for each in loggers.__all__ if each != "Logger"}
    check_choice("logger", name, sorted(classes))
    options = {"name": None, "version": ""} if name == "tensorboard" else {}  # no folders of its own in the run's
    try:
        return getattr(loggers, classes[name])(save_dir=str(folder), **options)
    except ModuleNotFoundError as error:
        raise UsageError(f"`logger` (={name!r}) needs a package that is not installed: {error}") from error


def evaluate_checkpoint(
    path: Path | str,
    *,
    model: str | None = None,
    data: str | None = None,
    data_dir: Path | str | None = None,
    split: SplitName = "test",
    device: torch.device | str = "cpu",
    workers: int = 0,
    skip_bad: bool = False,
) -> Evaluation:
    """Evaluate a checkpoint on the data of its recipe, or on others with the same classes.

    Images are normalised as in the training.

    Args:
        path: of the checkpoint.
        model: needed where the network comes from a function in a file: no checkpoint makes us run one.
        data, data_dir: as in a recipe, and of :func:`train`.
        split: train, val or test.
        device: where to evaluate.
        workers, skip_bad: as of :func:`train`.

    Raises:
        DataError: a checkpoint that cannot be read.
        UsageError: data with other classes or channels; a network to which the weights do not belong; an unknown split.
    """
    path, device = Path(path), check_device(device)
    check_choice("split", split, SPLITS)
    content = read_checkpoint(path)
    about = content["saccade"]
    try:
        recipe = Recipe.model_validate(about["recipe"])
    except ValidationError as error:
        raise DataError(f"{path} holds a recipe that this version does not know: {error}") from None
    if model is None and Host.parse(recipe.model).library == "file":
        raise UsageError(
            f"the network of {path} comes from a file of Python, {recipe.model}, which would be run; if you trust it, "
            f"name it: model={recipe.model!r}, on the command line --model"
        )
    recipe = recipe.model_copy(update={"pretrained": False, "model": model or recipe.model})
    images = load_data(data or recipe.data, recipe.image_size, data_dir, skip_bad=skip_bad)
    check_classes(images, about["classes"])
    if images.shape[0] != len(about["statistics"][0]):
        raise UsageError(
            f"`data` (={images.name!r}) has images of {images.shape[0]} channels, the checkpoint is for "
            f"{len(about['statistics'][0])}"
        )
    network = build(recipe, images)
    try:
        network.load_state_dict(_weights(content["state_dict"]))
    except RuntimeError as error:
        raise UsageError(f"the weights in {path} are not those of {recipe.model}: {error}") from error
    network = network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = images.normalised_by(*about["statistics"])
    return evaluate(network, images, split, batch_size=recipe.batch_size, workers=workers)


def _weights(state: dict[str, Any]) -> dict[str, Any]:
    """The network that counts: the average of the weights, if one was kept."""
    prefix = "average.module." if any(key.startswith("average.") for key in state) else "model."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _about(recipe: Recipe, data: ImageData, model: nn.Module) -> dict[str, Any]:
    return {
        "file": Host.parse(recipe.model).fingerprint(),
        "recipe": recipe.model_dump(mode="json"),
        "classes": list(data.classes),
        "statistics": [part.tolist() for part in data.statistics],
        "digest": data.digest,
        "plan": json.loads(plan_of(model).to_json()),
    }


def _check_writable(out: Path) -> None:
    """Before anything that takes time."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(f"`out` (={str(out)!r}) cannot be written: {error}; choose another folder") from error
