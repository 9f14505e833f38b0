"""Inputs of relative attention, its results with every gradient, and how exact they must be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saccade.ops.relative_attention import reference

NAMES = ("out", "dq", "dk", "dv", "drel_h", "drel_w")
SIZES = [(1, 1), (1, 7), (7, 5), (14, 14), (33, 20)]


def inputs(
    height: int,
    width: int,
    heads: int = 2,
    kv_heads: int = 2,
    depth: int = 20,
    value_depth: int = 8,
    batch: int = 2,
    times: float = 1.0,
) -> list[Tensor]:
    """q, k, v, rel_h, rel_w in float64."""
    generator = torch.Generator().manual_seed(5)
    size = (height, width)
    shapes = (
        (batch, heads, *size, depth),
        (batch, kv_heads, *size, depth),
        (batch, kv_heads, *size, value_depth),
        (2 * height - 1, depth),
        (2 * width - 1, depth),
    )
    return [times * torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


def results(attend: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradient of each input, for a fixed cotangent."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = attend(*leaves)
    cotangent = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    return [out, *torch.autograd.grad(out, leaves, cotangent.to(out.dtype))]


def check_budget(attend: Callable[..., Tensor], tensors: list[Tensor], dtype: torch.dtype, factor: float = 2) -> None:
    """No tensor is further from the float64 formula than ``factor`` times what the formula itself is in that type.

    Both are measured on the same rounded inputs, as the root of the mean square: largest errors are a matter of luck.
    """
    low = [tensor.to(dtype) for tensor in tensors]
    scale = tensors[0].shape[-1] ** -0.5

    def formula(*args: Tensor) -> Tensor:
        return reference.attend(*args, scale)

    exact = results(formula, [tensor.double() for tensor in low])
    for name, ours, plain, truth in zip(NAMES, results(attend, low), results(formula, low), exact, strict=True):
        assert ours.dtype is dtype
        error, budget = ((x.double() - truth).square().mean().sqrt().item() for x in (ours, plain))
        if truth.abs().max() < 1e-12:
            budget = 8 * torch.finfo(dtype).eps  # Zero by mathematics: what rounding leaves of numbers near one.
        assert error <= factor * budget, f"{name}: {error:.2g}, the formula's {budget:.2g}"
