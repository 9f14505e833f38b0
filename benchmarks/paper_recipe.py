"""A recipe of a paper, as far as a machine gets with it, and how far that is from the paper.

``uv run python benchmarks/paper_recipe.py --data imagefolder:CIFAR100 --epochs 4`` trains ``cifar100-sem-resnet83`` in
``--out`` (killed, it goes on with the same command) and writes benchmarks/results/paper_recipe.json. The schedule is
the recipe's, over fewer epochs: its steps fall at the same shares of the training.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from common import write_result

from saccade.recipes import read_recipe
from saccade.training.recipe import changed
from saccade.training.run import train

RECIPE = "cifar100-sem-resnet83"
PAPER = {
    "model": "SEM-ResNet-164", "epochs": 164, "top1": 76.76,
    "source": "README of the authors' repository (arXiv 2209.05680); for 83 layers it gives no accuracy",
}  # fmt: skip


def main() -> None:
    """Train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--out", type=Path, default=Path("runs/paper_recipe"))
    asked = parser.parse_args()
    recipe, _ = read_recipe(RECIPE)
    given = [f"data={asked.data}", f"epochs={asked.epochs}", f"precision={asked.precision}"]
    trained = train(
        changed(recipe, given), asked.out, on_epoch=lambda epoch: print(epoch.as_dict(), file=sys.stderr, flush=True)
    )
    assert trained.evaluation is not None
    assert trained.evaluation.top5 is not None
    with (asked.out / "metrics.csv").open(encoding="utf-8") as file:
        epochs = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    top1 = round(100 * trained.evaluation.top1, 2)
    path = write_result(
        "paper_recipe", ("saccade", "torch", "lightning"),
        recipe=RECIPE, changed={"epochs": f"{asked.epochs} of {recipe.epochs}", "precision": asked.precision},
        images="45,000 to train on, 5,000 for validation, the official 10,000 for the test", seeds=1,
        epochs=epochs, top1=top1, top5=round(100 * trained.evaluation.top5, 2),
        calibration_error=round(trained.evaluation.calibration_error, 4),
        paper=PAPER, points_from_the_paper=round(top1 - PAPER["top1"], 2),
    )  # fmt: skip
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
