"""Triton kernels of fused relative attention, forward and backward.

A tile of keys is R whole rows of the map, each filled up to WP columns (a power of two). So the logits of a query's
columns are one tile that stays in registers for all rows, those of its rows one number a row, and neither their sum nor
their gradients need a gather or an atomic. Logits are in base 2; sums are in float32.
"""

# H W the map, M = HW pixels, N query heads, G query heads that share a key head, d depth of a key, dv of a value;
# D DV the depths and WP the width filled up to powers of two, R rows of a key tile, BQ queries of a query tile

# A kernel's arguments have no Python types; constants are in capitals, as Triton's own.
# ruff: noqa: ANN001, ANN201, N803

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_rows(pointer, rows, columns, count, width):
    """A tile of a (count, width) matrix, zeros beyond it."""
    mask = (rows[:, None] < count) & (columns[None, :] < width)
    return tl.load(pointer + rows[:, None] * width + columns[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(pointer, rows, columns, count, width, tile):
    """Write what of a tile lies in a (count, width) matrix."""
    mask = (rows[:, None] < count) & (columns[None, :] < width)
    tl.store(pointer + rows[:, None] * width + columns[None, :], tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def key_places(row, H, W, R: tl.constexpr, WP: tl.constexpr):
    """Of a key tile that begins at a row of the map: the pixels, those outside the map as M, behind the last."""
    column = tl.arange(0, R * WP)
    y, x = row + column // WP, column % WP
    return tl.where((y < H) & (x < W), y * W + x, H * W)


@triton.jit
def tile_logits(
    q, k, horizontal, vertical, places, scale, M, R: tl.constexpr, WP: tl.constexpr, PRECISION: tl.constexpr
):
    """Logits in base 2 of a query tile: q (BQ, D), k (R WP, D), horizontal (BQ, WP), vertical (BQ, R) -> (BQ, R WP)."""
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2_E)
    positions = vertical[:, :, None] + horizontal[:, None, :]
    logits += tl.reshape(positions, (q.shape[0], R * WP))
    return tl.where(places[None, :] < M, logits, -float("inf"))


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, horizontal_ptr, vertical_ptr, out_ptr, largest_ptr, total_ptr,
    scale, G, H, W, d, dv,
    D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, WP: tl.constexpr, BQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: the results of a tile of queries of one head, by the online softmax over key tiles."""
    M = H * W
    head = tl.program_id(1).to(tl.int64)
    shared = head // G
    queries = tl.program_id(0) * BQ + tl.arange(0, BQ)
    depths, value_depths, columns, rows = tl.arange(0, D), tl.arange(0, DV), tl.arange(0, WP), tl.arange(0, R)
    q = load_rows(q_ptr + head * M * d, queries, depths, M, d)
    horizontal = load_rows(horizontal_ptr + head * M * W, queries, columns, M, W)
    largest = tl.full((BQ,), -float("inf"), tl.float32)
    total = tl.zeros((BQ,), tl.float32)
    summed = tl.zeros((BQ, DV), tl.float32)
    for row in range(0, H, R):
        places = key_places(row, H, W, R, WP)
        k = load_rows(k_ptr + shared * M * d, places, depths, M, d)
        vertical = load_rows(vertical_ptr + head * M * H, queries, row + rows, M, H)
        logits = tile_logits(q, k, horizontal, vertical, places, scale, M, R, WP, PRECISION)
        top = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp2(logits - top[:, None])
        shrink = tl.exp2(largest - top)
        v = load_rows(v_ptr + shared * M * dv, places, value_depths, M, dv)
        total = total * shrink + tl.sum(weights, 1)
        summed = summed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        largest = top
    store_rows(out_ptr + head * M * dv, queries, value_depths, M, dv, summed / total[:, None])
    tl.store(largest_ptr + head * M + queries, largest, mask=queries < M)
    tl.store(total_ptr + head * M + queries, total, mask=queries < M)


@triton.jit
def backward_queries_kernel(
    q_ptr, k_ptr, v_ptr, horizontal_ptr, vertical_ptr, grad_ptr, largest_ptr, total_ptr, delta_ptr,
    d_q_ptr, d_horizontal_ptr, d_vertical_ptr,
    scale, G, H, W, d, dv,
    D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, WP: tl.constexpr, BQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: of a tile of queries of one head the gradients of q . k's q, and of its position logits."""
    M = H * W
    head = tl.program_id(1).to(tl.int64)
    shared = head // G
    queries = tl.program_id(0) * BQ + tl.arange(0, BQ)
    depths, value_depths, columns, rows = tl.arange(0, D), tl.arange(0, DV), tl.arange(0, WP), tl.arange(0, R)
    q = load_rows(q_ptr + head * M * d, queries, depths, M, d)
    grad = load_rows(grad_ptr + head * M * dv, queries, value_depths, M, dv)
    horizontal = load_rows(horizontal_ptr + head * M * W, queries, columns, M, W)
    largest = tl.load(largest_ptr + head * M + queries, mask=queries < M, other=0.0)
    total = tl.load(total_ptr + head * M + queries, mask=queries < M, other=1.0)
    delta = tl.load(delta_ptr + head * M + queries, mask=queries < M, other=0.0)
    d_q = tl.zeros((BQ, D), tl.float32)
    d_horizontal = tl.zeros((BQ, WP), tl.float32)
    for row in range(0, H, R):
        places = key_places(row, H, W, R, WP)
        k = load_rows(k_ptr + shared * M * d, places, depths, M, d)
        v = load_rows(v_ptr + shared * M * dv, places, value_depths, M, dv)
        vertical = load_rows(vertical_ptr + head * M * H, queries, row + rows, M, H)
        logits = tile_logits(q, k, horizontal, vertical, places, scale, M, R, WP, PRECISION)
        weights = tl.exp2(logits - largest[:, None]) / total[:, None]
        d_logits = weights * (tl.dot(grad, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        d_q += tl.dot(d_logits.to(k.dtype), k, input_precision=PRECISION)
        by_place = tl.reshape(d_logits, (BQ, R, WP))
        d_horizontal += tl.sum(by_place, 1)
        store_rows(d_vertical_ptr + head * M * H, queries, row + rows, M, H, tl.sum(by_place, 2))
    store_rows(d_q_ptr + head * M * d, queries, depths, M, d, d_q)
    store_rows(d_horizontal_ptr + head * M * W, queries, columns, M, W, d_horizontal)


@triton.jit
def backward_keys_kernel(
    q_ptr, k_ptr, v_ptr, horizontal_ptr, vertical_ptr, grad_ptr, largest_ptr, total_ptr, delta_ptr,
    d_k_ptr, d_v_ptr,
    scale, G, H, W, d, dv,
    D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, WP: tl.constexpr, BQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of a tile of keys and values of one head, over all query heads that share it."""
    M = H * W
    shared = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * R
    depths, value_depths, columns, rows = tl.arange(0, D), tl.arange(0, DV), tl.arange(0, WP), tl.arange(0, R)
    places = key_places(row, H, W, R, WP)
    k = load_rows(k_ptr + shared * M * d, places, depths, M, d)
    v = load_rows(v_ptr + shared * M * dv, places, value_depths, M, dv)
    d_k = tl.zeros((R * WP, D), tl.float32)
    d_v = tl.zeros((R * WP, DV), tl.float32)
    for member in range(G):
        head = shared * G + member
        for start in range(0, M, BQ):
            queries = start + tl.arange(0, BQ)
            q = load_rows(q_ptr + head * M * d, queries, depths, M, d)
            grad = load_rows(grad_ptr + head * M * dv, queries, value_depths, M, dv)
            horizontal = load_rows(horizontal_ptr + head * M * W, queries, columns, M, W)
            vertical = load_rows(vertical_ptr + head * M * H, queries, row + rows, M, H)
            # Beyond the last query the gradient is zero, whatever the weights.
            largest = tl.load(largest_ptr + head * M + queries, mask=queries < M, other=0.0)
            total = tl.load(total_ptr + head * M + queries, mask=queries < M, other=1.0)
            delta = tl.load(delta_ptr + head * M + queries, mask=queries < M, other=0.0)
            logits = tile_logits(q, k, horizontal, vertical, places, scale, M, R, WP, PRECISION)
            weights = tl.exp2(logits - largest[:, None]) / total[:, None]
            d_v += tl.dot(tl.trans(weights).to(grad.dtype), grad, input_precision=PRECISION)
            d_logits = weights * (tl.dot(grad, tl.trans(v), input_precision=PRECISION) - delta[:, None])
            d_k += tl.dot(tl.trans(d_logits).to(q.dtype), q, input_precision=PRECISION)
    store_rows(d_k_ptr + shared * M * d, places, depths, M, d, d_k * scale)
    store_rows(d_v_ptr + shared * M * dv, places, value_depths, M, dv, d_v)
