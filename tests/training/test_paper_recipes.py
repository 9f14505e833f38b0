"""The papers' recipes start and take twenty steps, on a few images in the place of their data."""

from __future__ import annotations

from pathlib import Path

import pytest

from saccade.recipes import list_recipes, read_recipe
from saccade.training.optim import make_factor
from saccade.training.recipe import changed
from saccade.training.run import train
from training.runs import image_folder

PAPERS = [
    name for name in list_recipes() if name.startswith(("cifar100-", "imagenet-")) and name != "cifar100-resnet20"
]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_it_starts_and_takes_twenty_steps(name: str, tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", train=20, others=2, side=16)
    recipe = changed(read_recipe(name)[0], [f"data=imagefolder:{images}", "image_size=16", "epochs=1", "batch_size=2"])
    steps: list[int] = []
    trained = train(recipe, tmp_path / "out", on_batch=lambda done, _: steps.append(done))
    assert steps == list(range(1, 21))
    assert trained.evaluation is not None
    assert trained.evaluation.images == 4


def test_learning_rates_follow_the_papers() -> None:
    """0.2 for each 256 images of a batch with Wide ResNets; a tenth after epochs 81 and 122 with SEM."""
    wide = {name: read_recipe(f"cifar100-{name}wrn28")[0] for name in ("", "se-", "ge-", "aa-")}
    assert all(recipe.optim.lr == pytest.approx(0.2 * recipe.batch_size / 256) for recipe in wide.values())
    assert {name: recipe.batch_size for name, recipe in wide.items()} == {
        "": 1024,
        "se-": 1024,
        "ge-": 1024,
        "aa-": 256,
    }
    plain, augmented = (read_recipe(f"imagenet-{name}mnasnet")[0] for name in ("", "aa-"))
    assert augmented.optim.lr == plain.optim.lr / 2
    ends = [recipe.optim.lr * make_factor(recipe.schedule, 350)(350) for recipe in (plain, augmented)]
    assert ends == [pytest.approx(0.016 * 0.97 ** (345 / 2.4))] * 2
    sem = read_recipe("cifar100-sem-resnet164")[0]
    assert [share * sem.epochs for share in sem.schedule.milestones] == [81, 122]
    plain = read_recipe("cifar100-sem-resnet164-unaugmented")[0]
    assert not any(value for value in plain.augment.model_dump().values() if value != "none")
    assert plain.model_copy(update={"augment": sem.augment}) == sem
