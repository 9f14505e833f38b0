"""What ``saccade train`` and ``saccade evaluate`` do and print."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from saccade.cli.tables import console, table
from saccade.recipes import list_recipes, read_recipe
from saccade.training.evaluate import Evaluation
from saccade.training.fit import Machine
from saccade.training.learner import Epoch
from saccade.training.recipe import changed
from saccade.training.run import evaluate_checkpoint, make_logger, train


def print_recipes() -> None:
    """Every recipe with the first line of its description."""
    rows = [[name, read_recipe(name)[1].partition("\n")[0]] for name in list_recipes()]
    console().print(table(("recipe", "trains"), rows, left=("recipe", "trains")))


def run_recipe(
    name: str, changes: list[str], out: Path, *, machine: dict[str, Any], loggers: list[str], **options: Any
) -> None:
    """Train a recipe and print its scores. ``machine`` are the fields of :class:`Machine` but the loggers."""
    recipe = changed(read_recipe(name)[0], changes)
    made = Machine(**machine, loggers=tuple(make_logger(each, out) for each in loggers))
    with RunProgress(recipe.epochs) as shown:
        trained = train(recipe, out, machine=made, on_epoch=shown.epoch, on_batch=shown.batch, **options)
    if trained.evaluation is not None:
        print_evaluation(trained.evaluation)
        print(f"\n{trained.out / 'last.ckpt'}")


class RunProgress:
    """A bar with the time left, on a terminal; and a line for every epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        columns = (TextColumn("{task.completed}/{task.total} batches"), BarColumn(), TimeRemainingColumn(compact=True))
        console = Console(stderr=True)
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task: TaskID | None = None

    def __enter__(self) -> RunProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def batch(self, done: int, total: int) -> None:
        if self.task is None:
            # A run that goes on begins where it was, so that its speed is that of now.
            self.task = self.bar.add_task("", total=total, completed=done - 1)
        self.bar.update(self.task, completed=done)

    def epoch(self, epoch: Epoch) -> None:
        self.bar.console.print(
            f"epoch {epoch.epoch}/{self.epochs}  loss {epoch.train_loss:.4f}  "
            f"val {100 * epoch.val_accuracy:.2f} %  {epoch.seconds:.0f} s",
            highlight=False,
        )


def print_evaluation(evaluation: Evaluation) -> None:
    """The scores, and a table of classes."""
    out = console()
    rows = [
        [name, str(images), "" if right is None else f"{100 * right:.1f} %"]
        for name, images, right in evaluation.per_class
    ]
    out.print(table(("class", "images", "right"), rows, left=("class",)))
    top5 = "" if evaluation.top5 is None else f", top-5 {100 * evaluation.top5:.2f} %"
    out.print(
        f"\n{evaluation.images} images: top-1 {100 * evaluation.top1:.2f} %{top5}, loss {evaluation.loss:.4f}, "
        f"calibration error {100 * evaluation.calibration_error:.2f} %",
        highlight=False,
    )


def evaluate_file(path: Path, *, as_json: bool, **options: Any) -> None:
    """Evaluate a checkpoint and print what it does."""
    evaluation = evaluate_checkpoint(path, **options)
    if as_json:
        content = asdict(evaluation)
        content["per_class"] = [
            {"class": name, "images": images, "accuracy": right} for name, images, right in evaluation.per_class
        ]
        print(json.dumps(content, indent=2))
    else:
        print_evaluation(evaluation)
