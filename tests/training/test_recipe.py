"""Recipes: what they say of themselves, and changes from a command line."""

from __future__ import annotations

import pytest

from saccade.errors import UsageError
from saccade.recipes import list_recipes, read_recipe
from saccade.training.recipe import Recipe, changed

SAMPLE, _ = read_recipe("sample-resnet8")


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_names_source_command_and_what_to_expect(name: str) -> None:
    recipe, text = read_recipe(name)
    assert isinstance(recipe, Recipe)
    assert "Source:" in text
    assert f"saccade train {name}" in text
    assert "Expected" in text
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ("epochs=3", "epochs", 3),
        ("ema=0.99", "ema", 0.99),
        ("ema=none", "ema", None),
        ("pretrained=true", "pretrained", True),
        ("data=imagefolder:a=b/c d", "data", "imagefolder:a=b/c d"),
        ("model=timm:resnet18", "model", "timm:resnet18"),
    ],
)
def test_a_change_sets_what_it_names_and_nothing_else(change: str, key: str, value: object) -> None:
    recipe = changed(SAMPLE, [change])
    assert getattr(recipe, key) == value
    assert recipe.model_copy(update={key: getattr(SAMPLE, key)}) == SAMPLE


def test_changes_reach_into_groups_and_lists() -> None:
    asked = [
        "optim.lr=0.3",
        "schedule.name=step",
        "schedule.milestones=[0.5, 0.75]",
        "attention=[{'name': 'se', 'options': {'reduction': 4}}]",
    ]
    recipe = changed(SAMPLE, asked)
    assert recipe.optim.lr == 0.3
    assert recipe.optim.momentum == SAMPLE.optim.momentum
    assert recipe.schedule.milestones == (0.5, 0.75)
    assert (recipe.attention[0].name, recipe.attention[0].options, recipe.attention[0].at) == (
        "se",
        {"reduction": 4},
        "residual",
    )


def test_no_augmentation_takes_off_all_of_it() -> None:
    crops, _ = read_recipe("cifar100-resnet20")
    assert crops.augment.crop
    plain = changed(crops, ["augment={'flip': False}"]).augment
    assert not any(value for value in plain.model_dump().values() if value != "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optim.rl=1", r"there is no 'optim.rl' \(did you mean 'optim.lr'"),
        ("lr=1", r"there is no 'lr' \(did you mean 'optim.lr'"),
        ("epochs", r"`--set` \(='epochs'\) must be KEY=VALUE"),
        ("epochs=0", r"`epochs` \(=0\): Input should be greater than or equal to 1"),
        ("optim.lr=-1", r"`optim.lr` \(=-1\): Input should be greater than 0"),
        ("augment.policy=auto", r"`augment.policy` \(='auto'\): Input should be 'none', 'trivial' or 'rand'"),
        ("optim=3", r"`optim` \(=3\): Input should be"),
        ("augment={'flop': True}", r"`augment.flop` \(=True\): Extra inputs are not permitted"),
        ("attention=[{'nam': 'se'}]", r"`attention.0.name`"),
    ],
)
def test_a_wrong_change_is_named(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        changed(SAMPLE, [change])


def test_text_is_never_run() -> None:
    assert changed(SAMPLE, ["data=__import__('os').getcwd()"]).data == "__import__('os').getcwd()"
