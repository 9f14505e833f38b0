"""The formula itself, all logits at once: the oracle of the other backends, differentiable any number of times.

logits[i, j] = scale * q_i . (k_j + rel_h[j_y - i_y] + rel_w[j_x - i_x])
out_i        = sum_j softmax_j(logits[i, j]) v_j
"""

# B batch, N heads, H W the map, d depth of a key, dv of a value, (h, w) the place of a query, (y, x) of a key

from __future__ import annotations

import torch
from torch import Tensor

from saccade.ops.relative_attention.tables import gather_offsets


def unavailable(q: Tensor) -> str | None:
    """Why this backend cannot run, or None."""
    return None


def attend(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """The result, (B, N, H, W, dv)."""
    heads, height, width = q.shape[1:4]
    values = repeat_heads(v, heads).flatten(2, 3)
    return (weights(q, k, rel_h, rel_w, scale) @ values).unflatten(2, (height, width))


def weights(q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """The attention weights, (B, N, HW, HW)."""
    heads, height, width = q.shape[1:4]
    q = q * scale
    content = q.flatten(2, 3) @ repeat_heads(k, heads).flatten(2, 3).transpose(-1, -2)
    vertical, horizontal = position_logits(q, rel_h, rel_w)
    position = vertical[..., :, None] + horizontal[..., None, :]
    logits = content.unflatten(-1, (height, width)) + position
    return logits.flatten(-2).softmax(dim=-1)


def position_logits(q: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    """For every query the logits of the rows, (B, N, HW, H), and of the columns, (B, N, HW, W), of the map."""
    height, width = q.shape[2:4]
    vertical = torch.einsum("bnhwd,hyd->bnhwy", q, gather_offsets(rel_h, height))
    horizontal = torch.einsum("bnhwd,wxd->bnhwx", q, gather_offsets(rel_w, width))
    # Flattened whole, then split: torch.export cannot prove the stride of two axes merged before one of unknown size.
    return (
        vertical.flatten(2).unflatten(2, (height * width, height)),
        horizontal.flatten(2).unflatten(2, (height * width, width)),
    )


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Keys or values of fewer heads, each as often as queries read it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)
