"""The same numbers twice, and no operator whose backward has no fixed order of summation on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import saccade
from attention.builders import build, maps

NAMES = saccade.list_attention()

# From the list of torch.use_deterministic_algorithms: what raises on CUDA where it is asked for determinism. Bilinear
# interpolation is not among them: there PyTorch takes a deterministic way when asked to.
WITHOUT_ORDER = {
    "adaptive_max_pool2d_backward",
    "_adaptive_avg_pool2d_backward",
    "grid_sampler_2d_backward",
    "replication_pad2d_backward",
    "reflection_pad2d_backward",
    "upsample_bicubic2d_backward",
    "put_",
    "histc",
    "kthvalue",
    "median",
}
EXCEPTIONS = {
    "stn": {"grid_sampler_2d_backward"},  # a warp is sampled at places that depend on the image
}


class Operators(TorchDispatchMode):
    """Notes the name of every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_backward_has_a_fixed_order_of_summation(name: str) -> None:
    module = build(name, 20).train()
    with Operators() as operators:
        module(maps(2, 20, 7, 5).requires_grad_()).square().sum().backward()
    assert operators.names & WITHOUT_ORDER == EXCEPTIONS.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_twice_gives_the_same_output_and_gradients(name: str) -> None:
    def run() -> list[torch.Tensor]:
        module, x = build(name, 20).train(), maps(2, 20, 7, 5).requires_grad_()
        out = module(x)
        out.square().sum().backward()
        return [out, x.grad, *(p.grad for p in module.parameters())]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)
