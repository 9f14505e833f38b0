"""Augmentation: what happens to an image depends on seed, epoch and sample, and on nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data import AugmentSettings, ImageData, Split, TrainBatches
from saccade.data.augment import Augment, mix_of, shifted

ALL = AugmentSettings(crop=3, policy="rand", erase=0.5, resized_crop=0.3)


def images(count: int = 20, side: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def data(count: int = 20) -> ImageData:
    split = Split(images(count), torch.arange(count))
    return ImageData("noise", [str(n) for n in range(count)], split, split, split)


def by_sample(
    settings: AugmentSettings, batch_size: int, *, epoch: int = 0, seed: int = 0, **options: int
) -> dict[int, Tensor]:
    batches = TrainBatches(data(), batch_size, seed, settings, **options)
    batches.set_epoch(epoch)
    return {int(label): image for made, labels in batches for image, label in zip(made, labels, strict=True)}


@pytest.mark.parametrize("options", [{"workers": 2}, {"workers": 1}])
def test_workers_and_batch_size_change_nothing(options: dict) -> None:
    plain, other = by_sample(ALL, 4), by_sample(ALL, 5, **options)
    assert sorted(plain) == sorted(other) == list(range(20))
    assert all(torch.equal(plain[sample], other[sample]) for sample in plain)


def test_processes_take_the_batches_of_one_with_the_batch_of_all() -> None:
    whole = list(TrainBatches(data(), 6, 0, ALL))
    ranks = [list(TrainBatches(data(), 3, 0, ALL, rank=rank, world=2)) for rank in range(2)]
    assert len(whole) == len(ranks[0]) == len(ranks[1]) == 3
    for (made, labels), *shares in zip(whole, *ranks, strict=True):
        assert torch.equal(made, torch.cat([share[0] for share in shares]))
        assert torch.equal(labels, torch.cat([share[1] for share in shares]))


def test_an_epoch_that_begins_in_the_middle_goes_on_with_the_same_batches() -> None:
    whole = list(TrainBatches(data(), 4, 0, ALL))
    first = TrainBatches(data(), 4, 0, ALL)
    given = iter(first)
    for _ in range(2):
        next(given)
    second = TrainBatches(data(), 4, 0, ALL)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == 3
    assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, whole[2:], strict=True))
    assert len(list(second)) == 5, "the next epoch is a whole one"


def test_epoch_and_seed_change_what_is_drawn() -> None:
    made = [by_sample(ALL, 4, epoch=epoch, seed=seed) for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert sum(torch.equal(made[a][sample], made[b][sample]) for sample in made[a]) < 4


def test_no_augmentation_leaves_images_as_they_are() -> None:
    made = by_sample(AugmentSettings(flip=False), 4)
    plain = data()
    assert all(torch.equal(image, plain.normalise(plain.train.images[sample])) for sample, image in made.items())


def test_a_crop_is_a_part_of_the_padded_image() -> None:
    given = images()
    shifts = torch.stack([torch.arange(20) % 7, (torch.arange(20) * 3) % 7], 1)
    made = shifted(given, shifts, 3)
    for image, (down, across), cropped in zip(given, shifts.tolist(), made, strict=True):
        assert torch.equal(cropped, F.pad(image, (3,) * 4)[:, down : down + 12, across : across + 12])


def test_crops_reach_every_corner() -> None:
    augment = Augment(AugmentSettings(crop=1), 0, 500)
    assert {tuple(shift) for shift in augment._draw(0).shifts.tolist()} == {(a, b) for a in range(3) for b in range(3)}


def test_the_share_that_is_drawn_has_a_rectangle_erased_and_the_others_are_as_they_were() -> None:
    given = images(400) | 1  # no zero but an erased one
    made = Augment(AugmentSettings(flip=False, erase=0.25), 0, 400)(given, 0, torch.arange(400))
    erased = (made == 0).flatten(1).any(1)
    assert 60 < int(erased.sum()) < 140  # 100, and five standard deviations of 9
    assert torch.equal(made[~erased], given[~erased])
    for image, before in zip(made[erased], given[erased], strict=True):
        zero = (image == 0).all(0)
        rows, columns = zero.any(1).nonzero().flatten(), zero.any(0).nonzero().flatten()
        assert int(zero.sum()) == len(rows) * len(columns)
        assert torch.equal(image[:, ~zero], before[:, ~zero])


def test_what_is_drawn_image_by_image_leaves_the_global_generator_and_the_images_alone() -> None:
    given = images()
    before, state = given.clone(), torch.get_rng_state()
    Augment(ALL, 0, 20)(given, 0, torch.arange(20))
    assert torch.equal(given, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_generator_is_put_aside_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    forked: list[bool] = []
    fork_rng = torch.random.fork_rng

    def counted(**options: Any) -> Any:
        forked.append(True)
        return fork_rng(**options)

    monkeypatch.setattr(torch.random, "fork_rng", counted)
    by_sample(ALL, 5)
    assert len(forked) == 4  # batches of 5 from 20 images


@pytest.mark.parametrize("given", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_labels_are_shares_of_two_classes(given: dict) -> None:
    mix = mix_of(AugmentSettings(**given), 20)
    mixed, labels = mix(images().float(), torch.arange(20))
    assert mixed.shape == (20, 3, 12, 12)
    assert labels.shape == (20, 20)
    assert torch.allclose(labels.sum(1), torch.ones(20))
    assert all(0 < int((row > 0).sum()) <= 2 for row in labels)


def test_without_mixing_there_is_no_mix() -> None:
    assert mix_of(AugmentSettings(), 10) is None
