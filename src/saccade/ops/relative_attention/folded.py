"""The same numbers as one call of PyTorch's attention: positions become further depths of queries and keys.

    q' = [scale q, vertical logits, horizontal logits]      k' = [k, onehot(row), onehot(column)]

so that q' . k' is the logit of :mod:`reference`, exactly. Plain operators: it compiles and exports anywhere.
"""

# B batch, N heads, H W the map, d depth of a key, dv of a value

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.ops.relative_attention.reference import position_logits, repeat_heads


def unavailable(q: Tensor) -> str | None:
    """Why this backend cannot run, or None."""
    return None


def attend(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """The result, (B, N, H, W, dv)."""
    heads, height, width = q.shape[1:4]
    q = q * scale
    vertical, horizontal = position_logits(q, rel_h, rel_w)
    queries = torch.cat((q.flatten(2, 3), vertical, horizontal), dim=-1)
    keys = repeat_heads(k, heads).flatten(2, 3)
    places = one_hot_places(height, width, keys).expand(*keys.shape[:2], -1, -1)
    keys = torch.cat((keys, places), dim=-1)
    values = repeat_heads(v, heads).flatten(2, 3)
    return attend_evenly(queries, keys, values, scale=1.0).unflatten(2, (height, width))


def attend_evenly(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """PyTorch's attention with zeros behind what is less deep: q, k (B, N, M, d), v (B, N, M, dv) -> (B, N, M, dv).

    Its kernels that store no logits want values as deep as keys. k and v may have fewer heads than q.
    """
    depth, value_depth = q.shape[-1], v.shape[-1]
    scale = depth**-0.5 if scale is None else scale
    k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    q, k, v = (F.pad(x, (0, max(depth, value_depth) - x.shape[-1])) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)[..., :value_depth]


def one_hot_places(height: int, width: int, like: Tensor) -> Tensor:
    """For every pixel a one at its row and a one at its column: (HW, H + W)."""
    rows = torch.eye(height, dtype=like.dtype, device=like.device)[:, None].expand(-1, width, -1)
    columns = torch.eye(width, dtype=like.dtype, device=like.device)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), dim=-1).flatten(0, 1)
