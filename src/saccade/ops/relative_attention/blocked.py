"""For CPUs: a block of logits at a time, made, used and forgotten; the backward pass makes each again.

Logits lie as (keys, queries): the positions of a query's column and row are then added by two broadcasts, sums over
keys run down contiguous rows, and the products with the few value depths have long rows on both sides. They are kept in
base 2, for which the exponential is faster. Memory is that of a block and of two tables of (H + W) numbers a query.
"""

# n = B N maps, H W the map, M = HW pixels, Q queries of a block, d depth of a key, dv of a value

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from saccade.ops.relative_attention.reference import repeat_heads
from saccade.ops.relative_attention.tables import gather_offsets, scatter_offsets

BLOCK = 1 << 18  # logits of a block, but for
LEAST_QUERIES = 64  # queries of a map at least: matrix products with fewer columns are slow
LOG2_E = 1 / math.log(2)


def unavailable(q: Tensor) -> str | None:
    """Why this backend cannot run, or None."""
    return None if q.device.type in ("cpu", "meta") else f"it runs on the CPU, and q is on {q.device.type}"


class Prepared(NamedTuple):
    """The inputs as the blocks read them, in float32 or float64."""

    q: Tensor  # (n, H, W, d), scaled, base 2
    queries: Tensor  # (n, d, M), the same
    keys: Tensor  # (n, M, d)
    values: Tensor  # (n, dv + 1, M); the last row is 1
    vertical: Tensor  # (n, H, M), the position logits of rows
    horizontal: Tensor  # (n, W, M), of columns


def prepare(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Prepared:
    """Scaled, transposed and in one precision."""
    heads, height, width = q.shape[1:4]
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, rel_h, rel_w = q.to(dtype).flatten(0, 1) * (scale * LOG2_E), rel_h.to(dtype), rel_w.to(dtype)
    keys, values = (repeat_heads(x.to(dtype), heads).flatten(0, 1).flatten(1, 2) for x in (k, v))
    vertical = torch.einsum("nhwd,hyd->nyhw", q, gather_offsets(rel_h, height))
    horizontal = torch.einsum("nhwd,wxd->nxhw", q, gather_offsets(rel_w, width))
    return Prepared(
        q.contiguous(),
        q.flatten(1, 2).transpose(1, 2).contiguous(),
        keys.contiguous(),
        torch.cat((values.transpose(1, 2), values.new_ones(len(values), 1, values.shape[1])), dim=1),
        vertical.flatten(2).contiguous(),
        horizontal.flatten(2).contiguous(),
    )


def blocks(maps: int, pixels: int) -> Iterator[tuple[slice, slice]]:
    """Which maps and which queries make a block: several whole maps, or some queries of a map for each thread.

    Every operator shares its work out by maps where there are as many as threads. So each thread finds in its cache
    what it wrote there before; halves of one map would be cut one way by a product and another way by a sum.
    """
    together = max(1, min(maps, BLOCK // (pixels * pixels) or torch.get_num_threads()))
    step = min(pixels, max(LEAST_QUERIES, BLOCK // (pixels * together) // 16 * 16))
    for first in range(0, maps, together):
        for start in range(0, pixels, step):
            yield slice(first, min(first + together, maps)), slice(start, min(start + step, pixels))


class Workspace:
    """Room for blocks of logits, the same for every block."""

    def __init__(self, prepared: Prepared, count: int) -> None:
        maps, height, width, _ = prepared.q.shape
        self.height, self.width = height, width
        pixels = height * width
        largest = max((m.stop - m.start) * (q.stop - q.start) for m, q in blocks(maps, pixels)) if maps else 0
        self.rooms = [prepared.q.new_empty(largest * pixels) for _ in range(count)]

    def __call__(self, maps: slice, queries: slice) -> list[Tensor]:
        """One (maps, H, W, Q) for each room."""
        shape = (maps.stop - maps.start, self.height, self.width, queries.stop - queries.start)
        return [room[: math.prod(shape)].view(shape) for room in self.rooms]


def logits(prepared: Prepared, maps: slice, queries: slice, out: Tensor) -> Tensor:
    """The logits of a block in base 2, (maps, M, Q), written into ``out`` (maps, H, W, Q)."""
    torch.add(prepared.horizontal[maps, None, :, queries], prepared.vertical[maps, :, None, queries], out=out)
    return out.flatten(1, 2).baddbmm_(prepared.keys[maps], prepared.queries[maps, :, queries])


def forward(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result (B, N, H, W, dv), and of every query the largest logit and the sum of exponentials, (n, 1, M)."""
    prepared = prepare(q, k, v, rel_h, rel_w, scale)
    maps, depths, pixels = prepared.values.shape
    summed = prepared.q.new_empty(maps, depths, pixels)
    largest = prepared.q.new_empty(maps, 1, pixels)
    workspace = Workspace(prepared, 1)
    for m, i in blocks(maps, pixels):
        block = logits(prepared, m, i, *workspace(m, i))
        top = block.amax(dim=1, keepdim=True)
        block.sub_(top).exp2_()
        largest[m, :, i] = top
        summed[m, :, i] = prepared.values[m] @ block
    total = summed[:, -1:]
    out = (summed[:, :-1] / total).transpose(1, 2).to(q.dtype).contiguous()
    return out.view(*q.shape[:-1], v.shape[-1]), largest, total.contiguous()


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
    prepared = prepare(q, k, v, rel_h, rel_w, scale)
    maps, height, width, _ = prepared.q.shape
    pixels, value_depth = height * width, v.shape[-1]
    # The weights are exponentials / total; the division is taken over by what they are multiplied with.
    grad, out = (x.to(prepared.q.dtype).reshape(maps, pixels, value_depth).transpose(1, 2) for x in (grad, out))
    grad_scaled = (grad / total).contiguous()
    centred = torch.cat((grad_scaled, -(grad_scaled * out).sum(dim=1, keepdim=True)), dim=1)
    queries = prepared.q.flatten(1, 2)
    d_queries, d_keys = torch.empty_like(prepared.queries), torch.zeros_like(prepared.keys)
    d_values = torch.zeros_like(grad_scaled)
    d_vertical, d_horizontal = torch.empty_like(prepared.vertical), torch.empty_like(prepared.horizontal)
    workspace = Workspace(prepared, 2)
    for m, i in blocks(maps, pixels):
        first, second = workspace(m, i)
        weights = logits(prepared, m, i, first).sub_(largest[m, :, i]).exp2_()
        d_values[m].baddbmm_(grad_scaled[m, :, i], weights.transpose(1, 2))
        d_logits = torch.bmm(prepared.values[m].transpose(1, 2), centred[m, :, i], out=second.flatten(1, 2))
        d_logits.mul_(weights)
        d_queries[m, :, i] = prepared.keys[m].transpose(1, 2) @ d_logits
        d_keys[m].baddbmm_(d_logits, queries[m, i])
        d_horizontal[m, :, i] = second.sum(dim=1)
        d_vertical[m, :, i] = second.sum(dim=2)
    d_vertical, d_horizontal = d_vertical.unflatten(2, (height, width)), d_horizontal.unflatten(2, (height, width))
    d_q = d_queries.transpose(1, 2).unflatten(1, (height, width))
    d_q = d_q + torch.einsum("nyhw,hyd->nhwd", d_vertical, gather_offsets(rel_h.to(d_q.dtype), height))
    d_q = d_q + torch.einsum("nxhw,wxd->nhwd", d_horizontal, gather_offsets(rel_w.to(d_q.dtype), width))
    d_rel_h = scatter_offsets(torch.einsum("nyhw,nhwd->hyd", d_vertical, prepared.q))
    d_rel_w = scatter_offsets(torch.einsum("nxhw,nhwd->wxd", d_horizontal, prepared.q))
    return (
        (d_q * scale).to(q.dtype).contiguous().view(q.shape),
        sum_heads(d_keys / LOG2_E, k),
        sum_heads(d_values.transpose(1, 2), v),
        (d_rel_h / LOG2_E).to(rel_h.dtype),
        (d_rel_w / LOG2_E).to(rel_w.dtype),
    )


def sum_heads(grad: Tensor, like: Tensor) -> Tensor:
    """The gradient of keys or values that several heads read, from those of the heads, (n, M, .)."""
    batch, heads, height, width, depth = like.shape
    return grad.reshape(batch, heads, -1, height, width, depth).sum(dim=2).to(like.dtype).contiguous()
