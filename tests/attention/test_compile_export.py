"""Every mechanism compiles into one graph, and exports into one program that serves every batch, height and width."""

from __future__ import annotations

import copy

import pytest
import torch

import saccade
from attention.builders import build, maps
from attention.zero_gradients import zero_by_mathematics

NAMES = saccade.list_attention()

# PyTorch's export asks of every size that it works out from others that it be 1 always or never.
LEAST_SIZE = {"residual_mask": 3}  # it pools by 2


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_one_graph_computes_the_same_with_the_same_gradients(name: str, mode: str) -> None:
    module = build(name, 8).train(mode == "train")
    eager = copy.deepcopy(module)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = maps(2, 8, 5, 4).requires_grad_()
    expected, actual = eager(x), compiled(x)
    torch.testing.assert_close(actual, expected)
    for out in (expected, actual):
        out.square().sum().backward()
    for (key, p), (_, q) in zip(module.named_parameters(), eager.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strict", [False, True], ids=["nonstrict", "strict"])
def test_one_exported_program_serves_every_size(name: str, strict: bool) -> None:
    module = build(name, 8)
    least = LEAST_SIZE.get(name, 1)
    batch = torch.export.Dim("batch", min=1, max=64)
    height, width = (torch.export.Dim(axis, min=least, max=64) for axis in ("height", "width"))
    shapes = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(module, (maps(2, 8, 6, 7),), dynamic_shapes=shapes, strict=strict).module()
    for size in [(1, 8, 3, 4), (3, 8, 9, 5), (2, 8, 16, 17), (1, 8, 1, 1), (1, 8, 1, 9)]:
        if min(size[2:]) >= least:
            x = maps(*size)
            torch.testing.assert_close(program(x), module(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aaconv", "cbam", "gam", "halo", "lambda", "nonlocal"])
def test_compiled_code_computes_the_same_with_the_same_gradients(name: str) -> None:
    module = build(name, 16).train()
    eager, x = copy.deepcopy(module), maps(2, 16, 9, 7)
    compiled = torch.compile(module, fullgraph=True)
    expected, actual = eager(x), compiled(x)
    # Fused loops sum in another order.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    for out in (expected, actual):
        out.square().sum().backward()
    for (key, p), (_, q) in zip(module.named_parameters(), eager.named_parameters(), strict=True):
        if zero_by_mathematics(name, key, "train"):
            continue  # What is left of it is rounding.
        scale = q.grad.abs().max().item()
        torch.testing.assert_close(
            p.grad, q.grad, rtol=1e-4, atol=1e-5 * max(1, scale), msg=lambda text, key=key: f"{key}: {text}"
        )
