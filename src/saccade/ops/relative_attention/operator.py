"""One PyTorch operator for the backends that keep no logits: :mod:`blocked` on the CPU, :mod:`fused` on CUDA.

As an operator, with a schema, shapes without data and a backward pass of its own, it is one node of a compiled graph.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from saccade.errors import UsageError
from saccade.ops.relative_attention import blocked, fused

ONCE = "backend='reference' is plain PyTorch, for what needs more"


def attend(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """The result, (B, N, H, W, dv), differentiable once and backwards."""
    tensors = (q, k, v, rel_h, rel_w)
    # An operator without a rule for forward mode would pass on no tangent at all, in silence.
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise UsageError(f"this backend of relative_attention_2d has no forward-mode derivative; {ONCE}")
    return attend_forward(*tensors, scale)[0]


@torch.library.custom_op("saccade::relative_attention_2d", mutates_args=(), device_types="cpu")
def attend_forward(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and of every query the largest logit and the sum of exponentials, (B N, 1, HW)."""
    return blocked.forward(q, k, v, rel_h, rel_w, scale)


@torch.library.custom_op("saccade::relative_attention_2d_backward", mutates_args=(), device_types="cpu")
def attend_backward(
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
    return blocked.backward(grad, q, k, v, rel_h, rel_w, scale, out, largest, total)


attend_forward.register_kernel("cuda")(fused.forward)
attend_backward.register_kernel("cuda")(fused.backward)


@attend_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, height, width, _ = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    largest, total = (q.new_empty(batch * heads, 1, height * width, dtype=wide) for _ in range(2))
    return q.new_empty(*q.shape[:-1], v.shape[-1]), largest, total


@attend_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *_rest: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (q, k, v, rel_h, rel_w))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, *_others: Tensor) -> tuple[Any, ...]:
    *inputs, out, largest, total = ctx.saved_tensors
    return (*attend_backward(grad, *inputs, ctx.scale, out, largest, total), None)


def _refuse_second(_ctx: Any, *_grads: Any) -> NoReturn:
    raise UsageError(f"this backend of relative_attention_2d has no second derivative; {ONCE}")


def _refuse_vmap(_info: Any, _dims: Any, *_args: Any) -> NoReturn:
    raise UsageError(f"this backend of relative_attention_2d has no rule for vmap; {ONCE}")


attend_forward.register_autograd(_backward, setup_context=_setup)
attend_backward.register_autograd(_refuse_second)
attend_forward.register_vmap(_refuse_vmap)
attend_backward.register_vmap(_refuse_vmap)
