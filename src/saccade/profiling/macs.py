"""Multiply-accumulates of a forward pass, counted where the operators are dispatched, so that none is missed.

Counted: convolutions, linear layers, every matrix product (attention's too), scaled-dot-product attention on any
device, and one for each element of a product of two maps or of a map and a gate. Not counted, as is the custom:
additions, activations, pooling, and BatchNorm, which a deployed network folds into its convolutions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import saccade.ops  # noqa: F401  its operators are known to PyTorch once it is read

aten = torch.ops.aten


def count_macs(model: nn.Module, example_input: Tensor) -> int:
    """MACs of one forward in eval mode, for the whole batch of ``example_input``."""
    was_training = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False, custom_mapping=_EXTRA)
    try:
        with counter, torch.no_grad():
            model.eval()(example_input)
    finally:
        for module, training in was_training.items():
            module.training = training
    # The counter's unit is the FLOP, two for each multiply-accumulate.
    return counter.get_total_flops() // 2


def _product_flops(a: Any, b: Any, *_args: Any, out_val: Any = None, **_kwargs: Any) -> int:
    """One MAC per element of the result; a product with a plain number folds into a neighbour and is free."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or min(a.numel(), b.numel()) == 1:
        return 0
    return 2 * out_val.numel()


def _scaled_sum_flops(*_shapes: Any, out_shape: Any, **_kwargs: Any) -> int:
    """One MAC per element of ``a + b * c``."""
    return 2 * math.prod(out_shape)


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


# The counter knows CUDA's attention operators; the CPU's it would count as nothing.
_EXTRA: dict[Any, Any] = {
    aten.mul: _product_flops,
    aten.mul_: _product_flops,
    aten.addcmul: _scaled_sum_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops,
    torch.ops.saccade.relative_attention_2d: _relative_attention_flops,
}
