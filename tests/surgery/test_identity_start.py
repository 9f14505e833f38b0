"""An identity start: the network is what it was, bit for bit, and attention grows from there."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import saccade
from attention.builders import maps
from saccade.nets import CifarResNet
from surgery.hosts import HOSTS, OPTIONS, augmented, cifar, images, set_alpha, train

# A BatchNorm follows at once and takes every constant away: in train mode these have no gradient, whatever the start.
UNFELT = (".gam.attention.spatial.0.bias", ".gam.attention.spatial.3.bias")
every_mechanism = pytest.mark.parametrize("attention", OPTIONS)
every_host = pytest.mark.parametrize("host", HOSTS)


@every_host
@every_mechanism
def test_computes_exactly_what_the_host_did(host: str, attention: str) -> None:
    model = HOSTS[host]()
    new = augmented(model, attention)
    for size in [(2, 3, 40, 32), (1, 3, 33, 47), (3, 3, 64, 64)]:
        x = maps(*size)
        assert torch.equal(new(x), model(x))
    set_alpha(new, 0.5)
    assert not torch.allclose(new(images()), model(images()), atol=1e-4), "attention must be in the path"


@every_host
@every_mechanism
def test_keeps_the_names_values_and_classes_of_the_host(host: str, attention: str) -> None:
    model = HOSTS[host]()
    new = augmented(model, attention)
    theirs, ours = model.state_dict(), new.state_dict()
    assert [key for key in ours if ".saccade." not in key] == list(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    modules = dict(new.named_modules())
    for path, module in model.named_modules():
        assert isinstance(modules[path], type(module))
        assert type(modules[path]).__name__ == type(module).__name__
    assert new.load_state_dict(theirs, strict=False).unexpected_keys == []


@every_mechanism
def test_every_new_parameter_moves_within_three_steps(attention: str) -> None:
    # Behind alpha = 0 the inner parameters have no gradient at the first step; alpha has.
    new = augmented(cifar(), attention)
    before = {name: p.detach().clone() for name, p in new.named_parameters() if ".saccade." in name}
    train(new)
    parameters = dict(new.named_parameters())
    still = [
        name for name, value in before.items() if torch.equal(parameters[name], value) and not name.endswith(UNFELT)
    ]
    assert before
    assert not still


@every_mechanism
def test_the_first_step_is_alphas_alone(attention: str) -> None:
    new = augmented(cifar(), attention)
    new(images()).square().sum().backward()
    moved = {name.rpartition(".")[2] for name, p in new.named_parameters() if ".saccade." in name and p.grad.any()}
    assert moved == {"alpha"}


@pytest.mark.parametrize("attention", [name for name in OPTIONS if name != "aaconv"])
def test_alpha_one_is_the_papers_form(attention: str) -> None:
    host = cifar()
    paper, blended = augmented(host, attention, "paper"), augmented(host, attention, "identity")
    blended.load_state_dict(paper.state_dict(), strict=False)
    set_alpha(blended, 1.0)
    if attention == "gam":
        # It multiplies by its two maps one after the other; blended, by their product: the same but for rounding.
        torch.testing.assert_close(blended(images()), paper(images()))
    else:
        assert torch.equal(blended(images()), paper(images()))
    assert not torch.allclose(paper(images()), host(images()), atol=1e-3)


def test_alpha_one_is_the_papers_convolution() -> None:
    host = cifar()
    paper, blended = augmented(host, "aaconv", "paper"), augmented(host, "aaconv", "identity")
    conv = paper.get_submodule("layer3.0.conv1")
    blended.get_submodule("layer3.0.conv1.saccade.aaconv.attention").load_state_dict(conv.attention.state_dict())
    set_alpha(blended, 1.0)
    torch.testing.assert_close(blended(images()), paper(images()))
    assert not torch.allclose(paper(images()), host(images()), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@every_mechanism
def test_follows_the_type_of_the_host(attention: str, dtype: torch.dtype) -> None:
    host = cifar().to(dtype)
    new = saccade.augment(host, attention, at=["layer3.*.conv1"], options=OPTIONS[attention])
    assert {p.dtype for p in new.parameters()} == {dtype}
    x = images().to(dtype)
    out = new(x)
    assert out.dtype is dtype
    assert torch.equal(out, host(x))


@every_mechanism
def test_the_hosts_type_stays_when_attention_computes_in_another(attention: str) -> None:
    new = augmented(cifar(), attention)
    set_alpha(new, 0.5)
    expected = new(images())
    seen: list[torch.dtype] = []
    site = next(m for m in new.modules() if "saccade" in dict(m.named_children()))
    site.register_forward_hook(lambda _module, _args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert (new(images()).float() - expected).abs().max() < 0.1 * expected.abs().max()
        convolved = new.get_submodule("conv1")(images())
    # What a BatchNorm or convolution gives under autocast is what an edited one gives.
    assert seen == [convolved.dtype]


@pytest.mark.parametrize("start", ["paper", "identity"])
@every_mechanism
def test_follows_a_host_on_the_meta_device(attention: str, start: str) -> None:
    with torch.device("meta"):
        host = CifarResNet(8, widths=(8, 16, 32))
    new = augmented(host, attention, start)
    assert {tensor.device.type for tensor in new.state_dict().values()} == {"meta"}
    assert new(torch.empty(2, 3, 40, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("start", ["paper", "identity"])
@every_mechanism
def test_follows_the_mode_of_the_host(attention: str, start: str, training: bool) -> None:
    new = augmented(cifar().train(training), attention, start)
    assert {module.training for module in new.modules()} == {training}
    assert {module.training for module in saccade.strip(new).modules()} == {training}


def test_follows_the_buffers_of_a_module_without_parameters() -> None:
    host = nn.Sequential(nn.Conv2d(3, 8, 1), FrozenBatchNorm2d(8).double())
    host[0].register_forward_hook(lambda _module, _args, out: out.double())
    model = saccade.augment(host, "se", at="1", example_input=images())
    assert {p.dtype for p in model[1].saccade.parameters()} == {torch.float64}
    assert torch.equal(model(images()), host(images()))
