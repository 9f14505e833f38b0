"""Networks in files: what was saved comes back, with its attention and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

import saccade
from nets.saved import IMAGE, assert_same, moved, shared, tied
from saccade.errors import UsageError


@pytest.mark.parametrize(
    ("attention", "at"), [("aaconv", "layer4.*.conv1"), ("iebn", "layer4.*.bn2"), ("stn", "input")]
)
@pytest.mark.parametrize("start", ["identity", "paper"])
def test_every_form_of_an_edit_comes_back(attention: str, at: str, start: str, tmp_path: Path) -> None:
    model = moved(saccade.augment(models.resnet18(num_classes=3), attention, at=at, start=start))
    saccade.save(model, tmp_path / "model")
    assert_same(saccade.load(tmp_path / "model"), model, IMAGE)


@pytest.mark.parametrize(
    ("attention", "at"), [("aaconv", "layer4.*.conv1"), ("iebn", "layer4.*.bn2"), ("stn", "input")]
)
@pytest.mark.parametrize("start", ["identity", "paper"])
def test_strip_gives_the_host_back_after_a_file(attention: str, at: str, start: str, tmp_path: Path) -> None:
    host = moved(models.resnet18(num_classes=3))
    saccade.save(saccade.augment(host, attention, at=at, start=start), tmp_path / "model")
    assert_same(saccade.strip(saccade.load(tmp_path / "model")), host, IMAGE)


def test_what_is_shared_by_two_convolutions_set_aside_comes_back_shared(tmp_path: Path) -> None:
    host = moved(tied(models.resnet18(num_classes=3)))
    model = saccade.augment(host, "aaconv", at="layer1.*.conv1", start="paper")
    saccade.save(model, tmp_path / "model")
    stripped = saccade.strip(saccade.load(tmp_path / "model", host=tied(models.resnet18(num_classes=3))))
    assert_same(stripped, host, IMAGE)
    assert stripped.layer1[1].conv1.weight is stripped.layer1[0].conv1.weight


def test_a_plain_network_is_saved_and_loaded_too(tmp_path: Path) -> None:
    host = moved(models.resnet18(num_classes=3))
    saccade.save(host, tmp_path / "host")
    assert_same(saccade.load(tmp_path / "host"), host, IMAGE)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.conv1(x).relu()).mean((2, 3)))


def test_a_network_of_ones_own_asks_for_its_host(tmp_path: Path) -> None:
    model = moved(saccade.augment(Own(), "se", at="conv"))
    saccade.save(model, tmp_path / "model")
    with pytest.raises(UsageError, match=r"model does not name its host.*give it: saccade.load\(path, host=model\)"):
        saccade.load(tmp_path / "model")
    host = Own()
    before = {key: value.clone() for key, value in host.state_dict().items()}
    assert_same(saccade.load(tmp_path / "model", host=host), model, IMAGE)
    assert len(saccade.plan_of(host)) == 0
    assert all(torch.equal(value, before[key]) for key, value in host.state_dict().items())


def test_the_host_can_be_given_by_name(tmp_path: Path) -> None:
    model = moved(saccade.augment(models.resnet18(replace_stride_with_dilation=[False, False, False]), "se"))
    saccade.save(model, tmp_path / "model")
    assert_same(saccade.load(tmp_path / "model", host="torchvision:resnet18"), model, IMAGE)
    with pytest.raises(UsageError, match=r"the weights of .*model do not fit this host"):
        saccade.load(tmp_path / "model", host="torchvision:resnet18(num_classes=3)")
    with pytest.raises(UsageError, match=r"no module at 'layer3.2.bn2'|do not fit this host"):
        saccade.load(tmp_path / "model", host="torchvision:resnet34")


@pytest.mark.parametrize("share", [shared, tied])
def test_what_is_shared_is_saved_once_and_comes_back_shared(
    share: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    host = share(models.resnet18())
    model = moved(saccade.augment(host, "se", at="layer2.*.bn2"))
    saccade.save(model, tmp_path / "model")
    loaded = saccade.load(tmp_path / "model", host=host)
    assert_same(loaded, model, IMAGE)
    assert loaded.layer1[1].conv1.weight is loaded.layer1[0].conv1.weight


def test_parameters_that_share_memory_and_are_two_come_back(tmp_path: Path) -> None:
    host = models.resnet18(num_classes=3)
    host.layer1[1].conv1.weight = nn.Parameter(host.layer1[0].conv1.weight.data)
    saccade.save(host, tmp_path / "model")
    assert_same(saccade.load(tmp_path / "model", host=models.resnet18(num_classes=3)), host, IMAGE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_type_of_the_numbers_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model = moved(saccade.augment(models.resnet18(num_classes=3), "gam", at="layer4.*.bn2")).to(dtype)
    saccade.save(model, tmp_path / "model")
    assert_same(saccade.load(tmp_path / "model"), model, IMAGE.to(dtype))


def test_weights_that_lie_otherwise_in_memory_come_back_with_their_values(tmp_path: Path) -> None:
    model = moved(saccade.augment(models.resnet18(num_classes=3), "gam", at="layer4.*.bn2"))
    model.to(memory_format=torch.channels_last)
    model.fc.weight = nn.Parameter(model.fc.weight.detach().t().contiguous().t())
    assert not model.fc.weight.is_contiguous()
    assert not model.conv1.weight.is_contiguous()
    saccade.save(model, tmp_path / "model")
    loaded = saccade.load(tmp_path / "model")
    # In the same layout they compute the same; in another, convolutions add in another order.
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        ours.data = theirs.data.clone()
    assert torch.equal(loaded.eval()(IMAGE), model(IMAGE))


def test_a_wrapped_network_is_saved_as_the_one_inside(tmp_path: Path) -> None:
    import lightning.pytorch  # noqa: F401  once imported, it notes on a network how torch.compile was called

    model = moved(saccade.augment(models.resnet18(num_classes=3), "se"))
    saccade.save(nn.DataParallel(torch.compile(model, backend="eager")), tmp_path / "model")
    assert_same(saccade.load(tmp_path / "model"), model, IMAGE)


def test_a_network_whose_edit_something_removed_is_not_saved(tmp_path: Path) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(saccade.augment(models.resnet18(), "se"))
    with pytest.raises(UsageError, match="no longer run"):
        saccade.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())
