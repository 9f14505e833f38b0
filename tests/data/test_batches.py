"""Batches are a function of seed and epoch alone."""

import torch

from saccade.data import ImageData, Split, TrainBatches


def numbered_images(count: int = 50) -> ImageData:
    """Image n is n everywhere but in its last column, which is 255: number and flip can be read off it."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 4, 4)
    images[..., -1] = 255
    split = Split(images, torch.arange(count))
    return ImageData("numbers", [str(n) for n in range(count)], split, split, split)


def epoch(seed: int, number: int, batch_size: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batches = TrainBatches(numbered_images(), batch_size, seed)
    batches.set_epoch(number)
    return list(batches)


def flips(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[int, bool]:
    return {
        int(label): bool(image[0, 0, 0] > image[0, 0, -1])
        for images, labels in batches
        for image, label in zip(images, labels, strict=True)
    }


def test_an_epoch_has_each_image_at_most_once_in_whole_batches():
    batches = epoch(0, 0)
    labels = torch.cat([labels for _, labels in batches])
    assert [len(labels) for _, labels in batches] == [8] * 6
    assert len(labels.unique()) == 48


def test_fewer_images_than_a_batch_are_one_batch():
    assert [len(labels) for _, labels in epoch(0, 0, batch_size=64)] == [50]


def test_images_keep_their_labels():
    data = numbered_images()
    mean, deviation = data.statistics
    for images, labels in epoch(3, 2):
        numbers = (images[:, 0, 0, 1] * deviation + mean).round().long()
        assert torch.equal(numbers, labels)


def test_the_same_seed_and_epoch_give_the_same_batches_whatever_was_drawn_before():
    first = epoch(0, 1)
    torch.rand(1000)
    for (images, labels), (again, again_labels) in zip(first, epoch(0, 1), strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, again_labels)


def test_order_and_flips_change_with_seed_and_epoch():
    runs = [epoch(0, 0), epoch(0, 1), epoch(1, 0)]
    orders = {tuple(torch.cat([labels for _, labels in run]).tolist()) for run in runs}
    mirrored = {tuple(sorted(flips(run).items())) for run in runs}
    assert len(orders) == len(mirrored) == 3


def test_drawing_an_epoch_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    epoch(0, 0)
    assert torch.equal(torch.rand(3), expected)


def test_about_half_of_the_images_are_mirrored():
    mirrored = [flip for number in range(20) for flip in flips(epoch(0, number)).values()]
    # 960 fair coins: five standard deviations are 77.
    assert abs(sum(mirrored) - len(mirrored) / 2) < 80
