"""Two-dimensional relative self-attention: every pixel attends to every pixel, by content and by offset.

    logits[i, j] = scale * q_i . (k_j + rel_h[j_y - i_y] + rel_w[j_x - i_x])
    out_i        = sum_j softmax_j(logits[i, j]) v_j

The content and the position logits are scaled alike (Bello et al., "Attention Augmented Convolutional Networks",
arXiv 1904.09925, equation 5, and its published listing).
"""

# B batch, N heads, H W the map, d depth of a key, dv of a value

from __future__ import annotations

import torch
from torch import Tensor

from saccade._checks import check_choice, check_divides
from saccade.errors import UsageError
from saccade.ops.relative_attention import blocked, folded, fused, operator, reference
from saccade.ops.relative_attention.tables import resize_relative_table as resize_relative_table

# Each has `unavailable`: why it cannot run on a query, or None.
_MODULES = {"reference": reference, "folded": folded, "blocked": blocked, "triton": fused}
BACKENDS = ("auto", *_MODULES)


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
        rel_w: the same of horizontal offsets, (2W-1, d).
        scale: factor of the content and the position logits; ``d ** -0.5`` when None.
        backend: all compute the same. ``"reference"`` is the formula and keeps all logits, 4 B N (HW)^2 bytes in
            float32; it can be differentiated twice and transformed. ``"blocked"``, on CPUs, keeps a block of them,
            ``"triton"``, on CUDA, none. ``"folded"`` is one call of PyTorch's attention. ``"auto"``: see
            :func:`choose_backend`. Under autocast all compute in its type.

    Returns:
        (B, N, H, W, dv).

    Raises:
        UsageError: shapes that do not fit together; an unknown backend, or one that cannot run here; a second
            derivative or vmap of ``"blocked"`` or ``"triton"``.
    """
    check_choice("backend", backend, BACKENDS)
    _check_shapes(q, k, rel_h, rel_w)
    if v.dim() != 5 or v.shape[:-1] != k.shape[:-1]:
        raise UsageError(
            f"`v` (shape {tuple(v.shape)}) must have the batch, heads and map of `k` (shape {tuple(k.shape)})"
        )
    factor: float = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v, rel_h, rel_w = _in_one_type(q, k, v, rel_h, rel_w)
    backend = choose_backend(q) if backend == "auto" else backend
    module = _MODULES[backend]
    if reason := module.unavailable(q):
        raise UsageError(f"`backend` (={backend!r}) cannot run here: {reason}; backend='auto' chooses one that can")
    if module in (reference, folded):
        return module.attend(q, k, v, rel_h, rel_w, factor)
    return operator.attend(q, k, v, rel_h, rel_w, factor)


def choose_backend(q: Tensor) -> str:
    """What ``backend="auto"`` takes.

    While exporting ``"folded"``, which any runtime can load; else ``"blocked"`` on the CPU, ``"triton"`` where it runs,
    and ``"folded"`` elsewhere. The README of this folder has the measurements.
    """
    if not torch.compiler.is_exporting():
        for name in ("blocked", "triton"):
            if _MODULES[name].unavailable(q) is None:
                return name
    return "folded"


def available_backends(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> dict[str, str | None]:
    """Every backend's name -> why it cannot run on these inputs, or None.

    Raises:
        UsageError: shapes that do not fit together.
    """
    _check_shapes(q, k, rel_h, rel_w)
    return {name: module.unavailable(q) for name, module in _MODULES.items()}


def relative_attention_2d_weights(
    q: Tensor, k: Tensor, rel_h: Tensor, rel_w: Tensor, *, scale: float | None = None
) -> Tensor:
    """The attention weights themselves, (B, N, HW, HW): row i, in row-major order of the map, sums to one over j.

    Arguments as in :func:`relative_attention_2d`.
    """
    _check_shapes(q, k, rel_h, rel_w)
    return reference.weights(q, k, rel_h, rel_w, q.shape[-1] ** -0.5 if scale is None else scale)


def _in_one_type(q: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """All in the type of the queries, or under autocast in its type."""
    device, dtype = q.device.type, q.dtype
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) for x in (q, *others))


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
