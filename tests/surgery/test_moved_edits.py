"""Edits whose modules move, and what other libraries put around or above them: told as they are, and stripped."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.parametrize import remove_parametrizations
from torchvision.models.feature_extraction import create_feature_extractor

import saccade
from saccade.errors import UsageError
from surgery.hosts import augmented, cifar, images, set_alpha
from surgery.test_bad_input import scripted

PATHS = ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]


def sites(model: nn.Module) -> list[str]:
    return [edit.site for edit in saccade.plan_of(model).edits]


def within_another(model: nn.Module) -> nn.Module:
    model.layer1 = nn.Sequential(model.layer1, nn.Dropout()).eval()
    return model


def checkpointed(model: nn.Module) -> nn.Module:
    model.layer1[0] = checkpoint_wrapper(model.layer1[0])
    return model


def copied_part(model: nn.Module) -> nn.Module:
    model.layer1 = copy.deepcopy(model.layer1)
    return model


MOVES: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "within another": (within_another, "layer1.0.0.bn2"),
    "checkpointed": (checkpointed, "layer1.0._checkpoint_wrapped_module.bn2"),
    "a part copied": (copied_part, "layer1.0.bn2"),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("via", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
def test_an_edit_that_moved_with_its_module_is_told_at_its_new_path(move: str, via: Callable) -> None:
    moved, path = MOVES[move]
    host = cifar()
    model = via(moved(via(augmented(host, "se"))))
    assert sites(model) == [path, *PATHS[1:]]
    assert torch.equal(saccade.strip(model)(images()), host(images()))
    model.layer2[0].bn2 = nn.BatchNorm2d(16)
    with pytest.raises(UsageError, match=r"'se' at 'layer2.0.bn2' is gone"):
        saccade.plan_of(model)


@pytest.mark.parametrize("inplace", [True, False])
def test_a_part_may_be_augmented_after_the_whole(inplace: bool) -> None:
    model = augmented(cifar(), "se")
    part = torch.zeros(1, 8, 16, 16)
    model.layer2 = saccade.augment(model.layer2, "cbam", at="conv", example_input=part, inplace=inplace)
    found = [(edit.site, edit.attention) for edit in saccade.plan_of(model).edits]
    assert found == [
        ("layer1.0.bn2", "se"),
        ("layer2.0.conv1", "cbam"),
        ("layer2.0.conv2", "cbam"),
        ("layer2.0.bn2", "se"),
        ("layer3.0.bn2", "se"),
    ]
    model.layer2[0].conv1 = nn.Conv2d(8, 16, 3, 2, 1)
    with pytest.raises(UsageError, match=r"'cbam' at 'layer2.0.conv1' is gone"):
        saccade.plan_of(model)


@pytest.mark.parametrize(("attention", "start"), [("se", "identity"), ("aaconv", "paper")])
def test_a_part_may_be_stripped_and_the_rest_stays(attention: str, start: str) -> None:
    model = saccade.augment(cifar(), attention, at="*.conv1", start=start, example_input=images())
    copied = copy.deepcopy(model)
    saccade.strip(model.layer1, inplace=True)
    assert sites(model) == ["layer2.0.conv1", "layer3.0.conv1"]
    assert sites(copied) == ["layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"]
    # A strip of a copy takes nothing off here, so that a loss is still told.
    saccade.strip(model)
    model.layer2[0].conv1 = nn.Conv2d(8, 16, 3, 2, 1)
    with pytest.raises(UsageError, match=f"'{attention}' at 'layer2.0.conv1' is gone"):
        saccade.plan_of(model)


@pytest.mark.parametrize("parametrise", [weight_norm, spectral_norm])
@pytest.mark.parametrize("inplace", [True, False])
def test_a_module_that_was_parametrised_since_stays_so_when_stripped(parametrise: Callable, inplace: bool) -> None:
    host = cifar()
    model = saccade.augment(host, "se", at="layer1.0.conv1", example_input=images())
    for each in (host, model):
        parametrise(each.layer1[0].conv1)
        each.eval()
        each(images())
    model.load_state_dict(host.state_dict(), strict=False)
    set_alpha(model, 0.5)
    assert sites(copy.deepcopy(model)) == ["layer1.0.conv1"]
    stripped = saccade.strip(model, inplace=inplace)
    assert torch.equal(stripped(images()), host(images()))
    for each in (host, stripped):
        remove_parametrizations(each.layer1[0].conv1, "weight")
    assert type(stripped.layer1[0].conv1) is nn.Conv2d
    assert list(stripped.state_dict()) == list(host.state_dict())
    assert torch.equal(stripped(images()), host(images()))
    if not inplace:
        assert sites(model) == ["layer1.0.conv1"]
        assert not torch.equal(model(images()), host(images()))


def test_a_class_that_was_put_above_an_edited_one_is_copied_and_stays() -> None:
    model = augmented(cifar(), "se")
    norm = model.layer1[0].bn2
    norm.__class__ = type("Counted", (type(norm),), {"count": 3})
    copied = copy.deepcopy(model)
    assert copied.layer1[0].bn2.count == 3
    assert sites(copied) == PATHS
    stripped = saccade.strip(copied).layer1[0].bn2
    assert type(stripped).__mro__[:2] == (type(stripped), nn.BatchNorm2d)
    assert stripped.count == 3


GRAPHS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "symbolic_trace": torch.fx.symbolic_trace,
    "fuse": fuse,
    "feature_extractor": lambda model: create_feature_extractor(model, {"layer3": "out"}),
    "export": lambda model: torch.export.export(model, (images(),)).module(),
    "jit.trace inside another": lambda model: nn.Sequential(torch.jit.trace(model, images(), check_trace=False)),
}
ASKED = [saccade.plan_of, saccade.strip, saccade.attention_parameters, saccade.host_parameters]


@pytest.mark.filterwarnings("ignore")  # jit.trace is deprecated, and tells of every check of a shape
@pytest.mark.parametrize("how", GRAPHS)
def test_a_graph_that_holds_the_attention_itself_is_no_augmented_network(how: str) -> None:
    model = saccade.augment(cifar(), "se", at="block", example_input=images())
    graph = GRAPHS[how](model)
    message = (
        r"`model` (is|has at '0') a traced graph that holds the attention itself \(.*saccade.*\), not as an edit; take "
        r"the network that it was traced from, saccade.strip\(network\), and trace the result"
    )
    for ask in ASKED:
        with pytest.raises(UsageError, match=message):
            ask(graph)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", GRAPHS)
def test_a_graph_of_a_plain_network_has_no_edits(how: str) -> None:
    graph = GRAPHS[how](torchvision.models.resnet18(num_classes=10).eval() if how == "feature_extractor" else cifar())
    assert len(saccade.plan_of(graph)) == 0
    assert saccade.attention_parameters(graph) == []


def test_torchscript_has_no_plan() -> None:
    traced = scripted("trace", nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    for ask in ASKED:
        with pytest.raises(UsageError, match=r"`model` is a \w+: TorchScript code takes no edits. Give the nn.Module"):
            ask(traced)
