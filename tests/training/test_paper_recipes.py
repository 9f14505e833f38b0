"""The papers' recipes start and take twenty steps, on a few images in the place of their data."""

from __future__ import annotations

from pathlib import Path

import pytest

from saccade.recipes import list_recipes, read_recipe
from saccade.training.optim import make_factor
from saccade.training.recipe import changed
from saccade.training.run import train
from training.runs import image_folder

# Learning rate, images of a batch, weight decay, epochs, of which the rate rises in how many, schedule, and the epochs
# after which it is a tenth. As the AAConv paper and the code of SEM's authors have them.
SETTINGS = {
    "cifar100-wrn28": (0.8, 1024, 2e-4, 500, 25, "cosine", []),
    "cifar100-se-wrn28": (0.8, 1024, 2e-4, 500, 25, "cosine", []),
    "cifar100-ge-wrn28": (0.8, 1024, 2e-4, 500, 25, "cosine", []),
    "cifar100-aa-wrn28": (0.2, 256, 5e-4, 500, 25, "cosine", []),
    "cifar100-resnet83": (0.1, 128, 1e-4, 164, 0, "step", [81, 122]),
    "cifar100-resnet164": (0.1, 128, 1e-4, 164, 0, "step", [81, 122]),
    "cifar100-sem-resnet83": (0.1, 128, 1e-4, 164, 0, "step", [81, 122]),
    "cifar100-sem-resnet164": (0.1, 128, 1e-4, 164, 0, "step", [81, 122]),
    "cifar100-resnet164-unaugmented": (0.1, 128, 1e-4, 164, 0, "step", [81, 122]),
    "cifar100-sem-resnet164-unaugmented": (0.1, 128, 1e-4, 164, 0, "step", [81, 122]),
    "cifar100-iebn-resnet83": (0.1, 128, 1e-4, 164, 0, "step", [81, 122]),
    "cifar100-iebn-resnet164": (0.1, 128, 1e-4, 164, 0, "step", [81, 122]),
    "imagenet-resnet50": (0.128, 256, 1e-4, 100, 5, "step", [30, 60, 80, 90]),
    "imagenet-aa-resnet50": (0.128, 256, 1e-4, 100, 5, "step", [30, 60, 80, 90]),
    "imagenet-se-resnet50": (0.128, 256, 1e-4, 100, 5, "step", [30, 60, 80, 90]),
    "imagenet-cbam-resnet50": (0.128, 256, 1e-4, 100, 5, "step", [30, 60, 80, 90]),
    "imagenet-bam-resnet50": (0.128, 256, 1e-4, 100, 5, "step", [30, 60, 80, 90]),
    "imagenet-eca-resnet50": (0.128, 256, 1e-4, 100, 5, "step", [30, 60, 80, 90]),
    # MnasNet's 0.256 is for 4,096 images; half of it with attention
    "imagenet-mnasnet": (0.016, 256, 1e-5, 350, 5, "exponential", []),
    "imagenet-aa-mnasnet": (0.008, 256, 1e-5, 350, 5, "exponential", []),
}
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


def test_there_are_settings_for_every_recipe() -> None:
    assert set(SETTINGS) == set(PAPERS)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_the_papers(name: str) -> None:
    recipe = read_recipe(name)[0]
    lr, batch_size, weight_decay, epochs, rise, schedule, falls = SETTINGS[name]
    assert (recipe.batch_size, recipe.epochs, recipe.schedule.name) == (batch_size, epochs, schedule)
    assert (recipe.optim.lr, recipe.optim.weight_decay) == (pytest.approx(lr), weight_decay)
    assert recipe.schedule.warmup * epochs == pytest.approx(rise)
    assert [share * epochs for share in recipe.schedule.milestones] == pytest.approx(falls)
    assert (recipe.optim.momentum, recipe.schedule.gamma, recipe.accumulate) == (0.9, 0.1, 1)
    assert recipe.optim.decay_vectors


def test_mnasnets_rate_ends_as_in_its_paper_with_attention_too() -> None:
    """Times 0.97 every 2.4 epochs after the five in which it rises."""
    recipes = (read_recipe(f"imagenet-{name}mnasnet")[0] for name in ("", "aa-"))
    ends = [recipe.optim.lr * make_factor(recipe.schedule, 350)(350) for recipe in recipes]
    assert ends == [pytest.approx(0.016 * 0.97 ** (345 / 2.4))] * 2


def test_unaugmented_images_are_the_one_difference_with_sem_and_without() -> None:
    for name in ("cifar100-resnet164", "cifar100-sem-resnet164"):
        recipe, unaugmented = (read_recipe(f"{name}{ending}")[0] for ending in ("", "-unaugmented"))
        assert not any(value for value in unaugmented.augment.model_dump().values() if value != "none")
        assert unaugmented.model_copy(update={"augment": recipe.augment}) == recipe
