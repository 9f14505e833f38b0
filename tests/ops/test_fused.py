"""The CUDA kernels: their mathematics in Triton's interpreter everywhere, the kernels themselves where a GPU is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ops.relative_inputs import SIZES, check_budget, inputs, results
from saccade import ops
from saccade.ops.relative_attention import fused

# tests/conftest.py asks Triton for its interpreter where there is no GPU.
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels themselves run here")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class Fused(torch.autograd.Function):
    """The backend without the operator, which sends CPU tensors elsewhere."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *tensors, ctx.scale = args
        out, largest, total = fused.forward(*tensors, ctx.scale)
        ctx.save_for_backward(*tensors, out, largest, total)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        *tensors, out, largest, total = ctx.saved_tensors
        return *fused.backward(grads[0], *tensors, ctx.scale, out, largest, total), None


def attend(*tensors: Tensor) -> Tensor:
    return Fused.apply(*tensors, tensors[0].shape[-1] ** -0.5)


SHAPES = [
    {"batch": 1},
    {"heads": 4, "kv_heads": 2, "depth": 5, "value_depth": 33, "batch": 1},
    {"heads": 3, "kv_heads": 1, "value_depth": 4},
]


@interpreted
@pytest.mark.parametrize("shape", SHAPES, ids=["N2", "N4-kv2-d5-dv33", "N3-kv1-B2"])
@pytest.mark.parametrize("size", [*SIZES[:4], (3, 17), (2, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_kernels_mathematics_is_as_exact_as_the_formula(size: tuple[int, int], shape: dict[str, int]) -> None:
    check_budget(attend, inputs(*size, **shape), torch.float32)


@interpreted
def test_the_kernels_take_16_bits() -> None:
    # Not bfloat16: the interpreter multiplies its bit patterns as if they were integers.
    check_budget(attend, inputs(7, 5), torch.float16)


@interpreted
def test_the_kernels_take_large_logits_and_any_strides() -> None:
    check_budget(attend, inputs(7, 5, times=8), torch.float32)
    tensors = [tensor.float() for tensor in inputs(7, 5, value_depth=3)]
    strided = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in tensors]
    for ours, theirs in zip(results(attend, strided), results(attend, tensors), strict=True):
        assert torch.equal(ours, theirs)


@interpreted
def test_the_kernels_leave_no_number_unwritten() -> None:
    torch.use_deterministic_algorithms(True)  # New buffers are then full of NaN.
    try:
        assert torch.empty(3).isnan().all()
        tensors = [tensor.float() for tensor in inputs(7, 5, batch=1)]
        assert all(tensor.isfinite().all() for tensor in results(attend, tensors))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (14, 14), (7, 33), (224, 224), (3, 1000)])
def test_tiles_are_powers_of_two_that_hold_a_row(height: int, width: int) -> None:
    tiles = fused.tiles(height, width, 20, 33)
    assert tiles["WP"] >= width
    assert (tiles["D"], tiles["DV"]) == (32, 64)
    for name in ("D", "DV", "R", "WP", "BQ"):
        assert tiles[name] & (tiles[name] - 1) == 0, name
    assert min(tiles["WP"], tiles["BQ"], tiles["R"] * tiles["WP"]) >= 16


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=["N2", "N4-kv2-d5-dv33", "N3-kv1-B2"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_on_a_gpu_it_is_as_exact_as_the_formula(
    size: tuple[int, int], shape: dict[str, int], dtype: torch.dtype
) -> None:
    tensors = [tensor.cuda() for tensor in inputs(*size, **shape)]
    check_budget(lambda *args: ops.relative_attention_2d(*args, backend="triton"), tensors, dtype)


@needs_gpu
def test_on_a_gpu_twice_gives_the_same_bits_and_compiles_and_passes_pytorchs_checks() -> None:
    from saccade.ops.relative_attention.operator import attend_forward

    tensors = [tensor.cuda().bfloat16() for tensor in inputs(33, 20, heads=4, kv_heads=2)]
    assert ops.available_backends(*tensors)["triton"] is None
    first, second = results(ops.relative_attention_2d, tensors), results(ops.relative_attention_2d, tensors)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    compiled = torch.compile(lambda *args: ops.relative_attention_2d(*args), fullgraph=True)
    for one, other in zip(results(compiled, tensors), first, strict=True):
        torch.testing.assert_close(one, other)
    torch.library.opcheck(attend_forward, (*(tensor.requires_grad_() for tensor in tensors), 0.3))
