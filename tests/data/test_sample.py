"""The embedded sample is what it says it is."""

from importlib.resources import files

import torch

from saccade.data import load_data


def test_the_sample_is_balanced_and_split():
    data = load_data("sample")
    assert data.shape == (1, 28, 28)
    assert len(data.classes) == 10
    for split, per_class in ((data.train, 550), (data.val, 50), (data.test, 300)):
        assert split.images.dtype == torch.uint8
        assert split.labels.bincount().tolist() == [per_class] * 10


def test_no_image_is_in_two_splits():
    data = load_data("sample")
    seen = [{image.numpy().tobytes() for image in split.images} for split in (data.train, data.val, data.test)]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_images_are_pictures_of_their_classes():
    # Trousers are narrow and tall, sneakers low and wide: labels that were shifted by one mosaic row would fail here.
    data = load_data("sample")
    mean = {
        name: data.train.images[data.train.labels == label, 0].float().mean(0)
        for label, name in enumerate(data.classes)
    }
    assert mean["Sneaker"][:6].mean() < 5 < 100 < mean["Pullover"][4:24, 8:20].mean()
    assert mean["Trouser"][:, :4].mean() < 5
    assert mean["Trouser"][4:24, 10:18].mean() > 100


def test_the_sample_is_small_and_carries_its_licence():
    folder = files("saccade.data") / "sample"
    assert sum(len((folder / f"{name}.png").read_bytes()) for name in ("train", "val", "test")) < 4e6
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    assert "Zalando SE" in notice
    assert "MIT License" in notice


def test_statistics_are_those_of_the_training_images():
    data = load_data("sample")
    mean, deviation = data.statistics
    pixels = data.train.images.double()
    torch.testing.assert_close(mean.double(), pixels.mean().view(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(deviation.double(), pixels.std(correction=0).view(1), rtol=1e-6, atol=0)
    normal = data.normalise(data.train.images)
    assert abs(normal.mean().item()) < 1e-3
    assert abs(normal.std().item() - 1) < 1e-3


def test_saved_images_come_back(tmp_path):
    data = load_data("sample")
    data.save(tmp_path / "images.safetensors")
    again = type(data).load(tmp_path / "images.safetensors")
    assert again.digest == data.digest
    assert (again.name, again.classes) == (data.name, data.classes)


def test_the_digest_notices_a_pixel_a_label_and_a_class():
    digests = {load_data("sample").digest}
    data = load_data("sample")
    data.val.images[3, 0, 5, 5] += 1
    digests.add(data.digest)
    data = load_data("sample")
    data.test.labels[7] = 9
    digests.add(data.digest)
    data = load_data("sample")
    data.classes[0] = "Shoe"
    digests.add(data.digest)
    assert len(digests) == 4
