"""The same numbers twice, and no operator whose backward has no fixed order of summation on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attention.builders import Variant, every_variant, maps

# What raises on CUDA under torch.use_deterministic_algorithms(True), in PyTorch 2.15 or before. Its documentation also
# lists bilinear interpolation, but F.interpolate then takes a formula whose gradient has an order, and F.pad does so
# where it repeats the border. In 2.15 bicubic interpolation has one, too; in older versions it raises, so it is here.
WITHOUT_ORDER = {
    "adaptive_max_pool2d_backward",
    "_adaptive_avg_pool2d_backward",
    "grid_sampler_2d_backward",
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


@every_variant
def test_backward_has_a_fixed_order_of_summation(variant: Variant) -> None:
    module = variant.build(20).train()
    with Operators() as operators:
        module(maps(2, 20, *variant.sizes((7, 5))[0]).requires_grad_()).square().sum().backward()
    assert operators.names & WITHOUT_ORDER == EXCEPTIONS.get(variant.name, set())


@every_variant
def test_twice_gives_the_same_output_and_gradients(variant: Variant) -> None:
    def run() -> list[torch.Tensor]:
        module, x = variant.build(20).train(), maps(2, 20, *variant.sizes((7, 5))[0]).requires_grad_()
        out = module(x)
        out.square().sum().backward()
        return [out, x.grad, *(p.grad for p in module.parameters())]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)
