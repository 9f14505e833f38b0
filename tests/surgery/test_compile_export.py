"""An augmented network compiles into one graph and exports, and computes what it computes eagerly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import saccade
from attention.builders import maps
from surgery.hosts import augmented, cifar, images, set_alpha


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def at_work(start: str) -> nn.Module:
    """Two gates and an augmented convolution, blended in by a half where they are blended."""
    host = saccade.augment(augmented(cifar(), "se", start), "gam", at="layer2.0.bn1", start=start)
    host = saccade.augment(host, "aaconv", at="layer3.0.conv1", start=start, example_input=images())
    if start == "identity":
        set_alpha(host, 0.5)
    return host


@pytest.mark.parametrize(("start", "mode"), [("identity", "train"), ("paper", "eval")])
def test_one_graph_computes_the_same_with_the_same_gradients(start: str, mode: str) -> None:
    model = at_work(start).train(mode == "train")
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected, actual = eager(images()), compiled(images())
    torch.testing.assert_close(actual, expected)
    for out in (expected, actual):
        out.square().sum().backward()
    for (key, p), (_, q) in zip(model.named_parameters(), eager.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_an_exported_program_keeps_names_and_serves_other_sizes(start: str) -> None:
    model = at_work(start)
    batch, height, width = (torch.export.Dim(name, min=16, max=64) for name in ("batch", "height", "width"))
    # Multiples of 4: the host adds a strided branch to its shortcut, and both must be known to fit.
    shapes = ({0: batch, 2: 4 * height, 3: 4 * width},)
    program = torch.export.export(model, (maps(17, 3, 72, 64),), dynamic_shapes=shapes)
    assert set(program.state_dict) == set(model.state_dict())
    for size in [(16, 3, 64, 80), (18, 3, 68, 64)]:
        torch.testing.assert_close(program.module()(maps(*size)), model(maps(*size)), rtol=1e-4, atol=1e-5)


def test_a_network_compiled_before_stripping_computes_as_the_host_after() -> None:
    host = cifar()
    model = augmented(host, "se", "paper")
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(images()), model(images()))
    saccade.strip(model, inplace=True)
    assert torch.equal(compiled(images()), host(images()))


@pytest.mark.parametrize("name", ["nonlocal", "lambda"])
def test_mechanisms_named_as_words_of_python_export(name: str) -> None:
    """The exported program is code, in which a path must not be one of them."""
    model = saccade.augment(cifar(), name, at="layer3.0.conv1", start="identity", example_input=images()).eval()
    program = torch.export.export(model, (images(),))
    assert any(f".{name}_." in key for key in program.state_dict)
    torch.testing.assert_close(program.module()(images()), model(images()))
