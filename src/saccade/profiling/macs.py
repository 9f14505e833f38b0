"""Multiply-accumulates of a forward pass, counted where the operators are dispatched, so that none is missed.

Counted: convolutions, linear layers, every matrix product (attention's too), scaled-dot-product attention on any
device; one for each element of a product of two maps or of a map and a gate; and of interpolation one for each value
that an output element weighs: 4 bilinear, 16 bicubic, also in ``grid_sample``; 1 in ``lerp``, 0 for the nearest.
Not counted, as is the custom: additions, divisions, powers, activations, pooling, and normalisation, which for
BatchNorm a deployed network folds into its convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import saccade.ops  # noqa: F401  its operators are known to PyTorch once it is read

aten = torch.ops.aten


def count_macs(model: nn.Module, example_input: Tensor) -> int:
    """MACs of one forward in eval mode, for the whole batch of ``example_input``."""
    from torch.utils.flop_counter import FlopCounterMode  # it imports Triton, half a second

    was_training = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False, custom_mapping=_EXTRA)
    try:
        with _attention_in_parts(), counter, torch.no_grad():
            model.eval()(example_input)
    finally:
        for module, training in was_training.items():
            module.training = training
    # The counter's unit is the FLOP, two for each multiply-accumulate.
    return counter.get_total_flops() // 2


def _product_flops(a: Any, b: Any, *_args: Any, out_val: Any = None, **_kwargs: Any) -> int:
    """One MAC per element of the result; a product with a plain number folds into a neighbour and is free."""
    if _is_number(a) or _is_number(b):
        return 0
    return 2 * out_val.numel()


def _is_number(factor: Any) -> bool:
    """Also a parameter of one element; but not the one gate of one image, (1, 1), which is worked out for it."""
    return not isinstance(factor, Tensor) or (factor.dim() < 2 and factor.numel() == 1)


def _scaled_sum_flops(*_shapes: Any, out_shape: Any, **_kwargs: Any) -> int:
    """One MAC per element of ``a + b * c``, or ``a + (b - a) * c``."""
    return 2 * math.prod(out_shape)


def _vector_product_flops(matrix: Any, _vector: Any, **_kwargs: Any) -> int:
    """One MAC per element of the matrix."""
    return 2 * math.prod(matrix)


def _added_vector_product_flops(_added: Any, matrix: Any, _vector: Any, **_kwargs: Any) -> int:
    return 2 * math.prod(matrix)


def _weighing(values: int) -> Callable[..., int]:
    """An interpolation whose output elements weigh so many values each."""

    def flops(*_shapes: Any, out_shape: Any, **_kwargs: Any) -> int:
        return 2 * values * math.prod(out_shape)

    return flops


def _grid_sample_flops(image: Any, _grid: Any, mode: int = 0, *_args: Any, out_shape: Any, **_kwargs: Any) -> int:
    """``mode`` as PyTorch's operator has it: 0 linear, 1 nearest, 2 cubic; along each axis of the image."""
    values = (2, 0, 4)[mode] ** (len(image) - 2)
    return 2 * values * math.prod(out_shape)


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """In eval mode nn.MultiheadAttention is one operator, of which the counter knows nothing; here it is its parts."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


_product_flops._get_raw = True  # pyright: ignore[reportFunctionMemberAccess] # receive tensors, not their shapes


def _cpu_attention_flops(query: Any, key: Any, value: Any, *_args: Any, **_kwargs: Any) -> int:
    """Two products for every head and pair of positions; the arguments are shapes (B, N, positions, depth)."""
    batch, heads, queries, depth = query
    return 2 * batch * heads * queries * key[-2] * (depth + value[-1])


def _relative_attention_flops(query: Any, key: Any, value: Any, *_tables: Any, **_kwargs: Any) -> int:
    """Both products of attention and the position logits; the arguments are shapes, (B, N, H, W, depth)."""
    batch, heads, height, width, depth = query
    pixels = height * width
    return 2 * batch * heads * pixels * (pixels * (depth + value[-1]) + (height + width) * depth)


# What the counter would count as nothing.
_EXTRA: dict[Any, Any] = {
    aten.mul: _product_flops,
    aten.mul_: _product_flops,
    aten.addcmul: _scaled_sum_flops,
    aten.addcmul_: _scaled_sum_flops,
    aten.lerp: _scaled_sum_flops,
    aten.dot: _vector_product_flops,
    aten.mv: _vector_product_flops,
    aten.addmv: _added_vector_product_flops,
    aten.upsample_linear1d: _weighing(2),
    aten.upsample_bilinear2d: _weighing(4),
    aten._upsample_bilinear2d_aa: _weighing(4),
    aten.upsample_bicubic2d: _weighing(16),
    aten._upsample_bicubic2d_aa: _weighing(16),
    aten.upsample_trilinear3d: _weighing(8),
    aten.grid_sampler_2d: _grid_sample_flops,
    aten.grid_sampler_3d: _grid_sample_flops,
    aten.cudnn_grid_sampler: _weighing(4),
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops,
    torch.ops.saccade.relative_attention_2d: _relative_attention_flops,
}
