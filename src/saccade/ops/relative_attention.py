"""Two-dimensional relative self-attention: every pixel attends to every pixel, by content and by offset.

    logits[i, j] = scale * q_i . (k_j + rel_h[j_y - i_y] + rel_w[j_x - i_x])
    out_i        = sum_j softmax_j(logits[i, j]) v_j

The content and the position logits are scaled alike (Bello et al., "Attention Augmented Convolutional Networks",
arXiv 1904.09925, equation 5, and its published listing).
"""

# B batch, N heads, H W the map, d depth of a key, dv of a value, (h, w) the place of a query, (y, x) of a key

from __future__ import annotations

import torch
from torch import Tensor

from saccade._checks import check_choice, check_divides
from saccade.errors import UsageError

BACKENDS = ("auto", "reference")


def relative_attention_2d(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attend from every pixel to every pixel of a map, by content and by relative position.

    Args:
        q: queries, (B, N, H, W, d).
        k: keys, (B, N or fewer, H, W, d). With fewer heads, query head n reads head ``n // (N / N_kv)``.
        v: values, (B, the heads of k, H, W, dv).
        rel_h: embeddings of the vertical offsets, (2H-1, d); row ``j - i + H - 1`` is the offset ``j - i``, key minus
            query.
        rel_w: embeddings of the horizontal offsets, (2W-1, d).
        scale: factor of the content and the position logits; ``d ** -0.5`` when None.
        backend: ``"auto"`` or ``"reference"``. The reference writes the formula down and materialises the logits,
            4 B N (HW)^2 bytes in float32.

    Returns:
        (B, N, H, W, dv).

    Raises:
        UsageError: shapes that do not fit together, or an unknown backend.
    """
    check_choice("backend", backend, BACKENDS)
    weights = relative_attention_2d_weights(q, k, rel_h, rel_w, scale=scale)
    if v.shape[:-1] != k.shape[:-1]:
        raise UsageError(
            f"`v` (shape {tuple(v.shape)}) must have the batch, heads and map of `k` (shape {tuple(k.shape)})"
        )
    _, heads, height, width, _ = q.shape
    values = _repeat_heads(v, heads).flatten(2, 3)
    return (weights @ values).unflatten(2, (height, width))


def relative_attention_2d_weights(
    q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor, *, scale: float | None = None
) -> Tensor:
    """The attention weights themselves, (B, N, HW, HW): row i, in row-major order of the map, sums to one over j.

    Arguments as in :func:`relative_attention_2d`.
    """
    _check_shapes(q, k, rel_h, rel_w)
    _, heads, height, width, depth = q.shape
    q = q * (depth**-0.5 if scale is None else scale)
    content = q.flatten(2, 3) @ _repeat_heads(k, heads).flatten(2, 3).transpose(-1, -2)
    vertical = torch.einsum("bnhwd,hyd->bnhwy", q, rel_h[_offset_rows(height, q.device)])
    horizontal = torch.einsum("bnhwd,wxd->bnhwx", q, rel_w[_offset_rows(width, q.device)])
    # Flattened whole, then split: torch.export cannot prove the stride of two axes merged before one of unknown size.
    vertical = vertical.flatten(2).unflatten(2, (height * width, height))
    horizontal = horizontal.flatten(2).unflatten(2, (height * width, width))
    position = vertical[..., :, None] + horizontal[..., None, :]
    logits = content.unflatten(-1, (height, width)) + position
    return logits.flatten(-2).softmax(dim=-1)


def resize_relative_table(table: Tensor, size: int) -> Tensor:
    """Read a table of 2L-1 offset embeddings on a map of another length: (2L-1, d) -> (2 size - 1, d).

    Equal size: exactly the table. Smaller: exactly its centre rows. Larger: the offsets are interpolated linearly, the
    outermost offsets keeping their rows. One formula without a branch on the size, so that one exported program serves
    all sizes.
    """
    reach = (table.shape[0] - 1) // 2
    offsets = torch.arange(1 - size, size, device=table.device, dtype=torch.float32)
    # Multiplied before the division, so that the outermost offsets land on their rows without rounding.
    place = offsets * reach / offsets[-1:].clamp(min=max(reach, 1)) + reach
    low = place.floor()
    high = (low + 1).clamp(max=2 * reach)
    return torch.lerp(table[low.long()], table[high.long()], (place - low).to(table.dtype)[:, None])


def _offset_rows(size: int, device: torch.device) -> Tensor:
    """(query, key) -> the row of the table for the offset key - query: key - query + size - 1."""
    place = torch.arange(size, device=device)
    return place[None, :] - place[:, None] + size - 1


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _check_shapes(q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor) -> None:
    if q.dim() != 5 or k.dim() != 5:
        raise UsageError(f"`q` and `k` must be (B, heads, H, W, d); got shapes {tuple(q.shape)} and {tuple(k.shape)}")
    batch, heads, height, width, depth = q.shape
    if (k.shape[0], *k.shape[2:]) != (batch, height, width, depth):
        raise UsageError(f"`k` (shape {tuple(k.shape)}) must have the batch, map and depth of `q` {tuple(q.shape)}")
    check_divides("heads of k", k.shape[1], "heads of q", heads)
    for name, table, size in (("rel_h", rel_h, height), ("rel_w", rel_w, width)):
        if table.shape != (2 * size - 1, depth):
            raise UsageError(
                f"`{name}` (shape {tuple(table.shape)}) must be {(2 * size - 1, depth)} for a map of {height} x "
                f"{width} and depth {depth}; resize_relative_table({name}, {size}) reads it at this size"
            )
