"""For CUDA: one kernel forward, two backward, no logits in memory. See :mod:`fused_kernels` for the tiles."""

# B batch, N heads, H W the map, M = HW pixels, d depth of a key, dv of a value

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch
from torch import Tensor

from saccade.ops.relative_attention.reference import position_logits
from saccade.ops.relative_attention.tables import gather_offsets, scatter_offsets

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LOG2_E = 1 / math.log(2)


def unavailable(q: Tensor) -> str | None:
    """Why this backend cannot run, or None."""
    if q.device.type != "cuda":
        return f"it runs on CUDA devices, and q is on {q.device.type}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if q.dtype not in DTYPES:
        return f"it computes in float32, bfloat16 and float16, and q is {q.dtype}"
    return None


def tiles(height: int, width: int, depth: int, value_depth: int) -> dict[str, Any]:
    """The sizes of tiles: about 64 keys, and the fewer queries the wider a row of the map is."""
    row = power_of_two(width)
    return {
        "D": power_of_two(depth),
        "DV": power_of_two(value_depth),
        "R": max(1, min(64 // row, power_of_two(height, at_least=1))),
        "WP": row,
        "BQ": max(16, min(64, 4096 // row)),
        # Full float32: tensor cores would round its products to 11 bits.
        "PRECISION": "ieee",
        "num_warps": 4 if row <= 128 else 8,
    }


def power_of_two(value: int, at_least: int = 16) -> int:
    """The next power of two; a matrix product of tensor cores has sides of 16 or more."""
    return max(at_least, 1 << (value - 1).bit_length())


def position_tables(q: Tensor, rel_h: Tensor, rel_w: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """The position logits times ``factor`` in float32: of columns (B, N, M, W), of rows (B, N, M, H)."""
    vertical, horizontal = position_logits(q.float() * factor, rel_h.float(), rel_w.float())
    return horizontal.contiguous(), vertical.contiguous()


def forward(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result (B, N, H, W, dv), and of every query the largest logit and the sum of exponentials, (B N, 1, M)."""
    from saccade.ops.relative_attention.fused_kernels import forward_kernel

    batch, heads, height, width, depth = q.shape
    pixels, value_depth = height * width, v.shape[-1]
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    positions = position_tables(q, rel_h, rel_w, scale * LOG2_E)
    out = q.new_empty(*q.shape[:-1], value_depth)
    largest, total = (q.new_empty(batch * heads, 1, pixels, dtype=torch.float32) for _ in range(2))
    sizes = tiles(height, width, depth, value_depth)
    grid = (-(-pixels // sizes["BQ"]), batch * heads)
    numbers = (scale, heads // k.shape[1], height, width, depth, value_depth)
    forward_kernel[grid](q, k, v, *positions, out, largest, total, *numbers, **sizes)
    return out, largest, total


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    scale: float,
    out: Tensor,
    largest: Tensor,
    total: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, rel_h and rel_w."""
    from saccade.ops.relative_attention.fused_kernels import backward_keys_kernel, backward_queries_kernel

    batch, heads, height, width, depth = q.shape
    pixels, value_depth = height * width, v.shape[-1]
    q, k, v, grad = q.contiguous(), k.contiguous(), v.contiguous(), grad.contiguous()
    delta = (grad.float() * out.float()).sum(dim=-1)
    positions = position_tables(q, rel_h, rel_w, scale * LOG2_E)
    inputs = (q, k, v, *positions, grad, largest, total, delta)
    d_q = torch.empty_like(q, dtype=torch.float32)
    d_horizontal, d_vertical = (torch.empty_like(table) for table in positions)
    d_k, d_v = torch.empty_like(k), torch.empty_like(v)
    sizes = tiles(height, width, depth, value_depth)
    numbers = (scale, heads // k.shape[1], height, width, depth, value_depth)
    grid = (-(-pixels // sizes["BQ"]), batch * heads)
    backward_queries_kernel[grid](*inputs, d_q, d_horizontal, d_vertical, *numbers, **sizes)
    grid = (-(-height // sizes["R"]), batch * k.shape[1])
    backward_keys_kernel[grid](*inputs, d_k, d_v, *numbers, **sizes)
    d_horizontal, d_vertical = (d.unflatten(2, (height, width)) for d in (d_horizontal, d_vertical))
    d_q = d_q + torch.einsum("bnhwy,hyd->bnhwd", d_vertical, gather_offsets(rel_h.float(), height))
    d_q = d_q + torch.einsum("bnhwx,wxd->bnhwd", d_horizontal, gather_offsets(rel_w.float(), width))
    d_rel_h = scatter_offsets(torch.einsum("bnhwy,bnhwd->hyd", d_vertical, q.float()))
    d_rel_w = scatter_offsets(torch.einsum("bnhwx,bnhwd->wxd", d_horizontal, q.float()))
    return (
        (d_q * scale).to(q.dtype),
        d_k,
        d_v,
        (d_rel_h * scale).to(rel_h.dtype),
        (d_rel_w * scale).to(rel_w.dtype),
    )
