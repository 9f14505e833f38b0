"""Relative attention against the formula in plain loops, and the properties that make it relative."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from saccade import ops
from saccade.errors import UsageError


@dataclass(frozen=True)
class Case:
    height: int
    width: int
    heads: int = 2
    kv_heads: int = 2
    depth: int = 3
    value_depth: int = 3
    batch: int = 1
    scale: float | None = None

    def __str__(self) -> str:
        kv = f"kv{self.kv_heads}-" if self.kv_heads != self.heads else ""
        scale = f"-scale{self.scale}" if self.scale is not None else ""
        return f"{self.height}x{self.width}-N{self.heads}-{kv}d{self.depth}-dv{self.value_depth}-B{self.batch}{scale}"

    def tensors(self) -> tuple[Tensor, ...]:
        """q, k, v, rel_h, rel_w in float64, ready for gradients."""
        generator = torch.Generator().manual_seed(7)
        size = (self.height, self.width)
        shapes = (
            (self.batch, self.heads, *size, self.depth),
            (self.batch, self.kv_heads, *size, self.depth),
            (self.batch, self.kv_heads, *size, self.value_depth),
            (2 * self.height - 1, self.depth),
            (2 * self.width - 1, self.depth),
        )
        return tuple(torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes)


CASES = [
    Case(1, 1),
    Case(1, 7),
    Case(7, 1, batch=2),
    Case(7, 5, heads=1, kv_heads=1),
    Case(3, 4, value_depth=5),
    Case(3, 2, value_depth=1, depth=1),
    Case(3, 2, heads=4, kv_heads=2),
    Case(2, 3, heads=3, kv_heads=1, value_depth=2),
    Case(3, 4, scale=0.3),
    Case(2, 2, scale=0.0),
]


def loops(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """The formula, one query and one key at a time."""
    batch, heads, height, width, _ = q.shape
    group = heads // k.shape[1]
    pixels = [(y, x) for y in range(height) for x in range(width)]
    rows = []
    for b in range(batch):
        for n in range(heads):
            for i_y, i_x in pixels:
                logits, values = [], []
                for j_y, j_x in pixels:
                    offset = rel_h[j_y - i_y + height - 1] + rel_w[j_x - i_x + width - 1]
                    logits.append(scale * (q[b, n, i_y, i_x] * (k[b, n // group, j_y, j_x] + offset)).sum())
                    values.append(v[b, n // group, j_y, j_x])
                exps = torch.stack(logits).exp()
                rows.append((exps[:, None] / exps.sum() * torch.stack(values)).sum(0))
    return torch.stack(rows).view(batch, heads, height, width, -1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_every_gradient_equal_the_loops(case: Case) -> None:
    inputs = case.tensors()
    scale = case.depth**-0.5 if case.scale is None else case.scale
    expected = loops(*inputs, scale=scale)
    actual = ops.relative_attention_2d(*inputs, scale=case.scale)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    cotangent = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, inputs, cotangent)
    given = torch.autograd.grad(actual, inputs, cotangent)
    for name, ours, theirs in zip(("q", "k", "v", "rel_h", "rel_w"), given, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"d{name}: {text}")


def test_gradients_equal_finite_differences() -> None:
    assert torch.autograd.gradcheck(ops.relative_attention_2d, Case(2, 3, heads=2, kv_heads=1).tensors())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_are_positive_sum_to_one_and_make_the_output(case: Case) -> None:
    q, k, v, rel_h, rel_w = case.tensors()
    weights = ops.relative_attention_2d_weights(q, k, rel_h, rel_w, scale=case.scale)
    pixels = case.height * case.width
    assert weights.shape == (case.batch, case.heads, pixels, pixels)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    values = v.repeat_interleave(case.heads // case.kv_heads, dim=1).flatten(2, 3)
    out = ops.relative_attention_2d(q, k, v, rel_h, rel_w, scale=case.scale)
    torch.testing.assert_close(out.flatten(2, 3), weights @ values)


def test_default_scale_is_one_over_the_root_of_the_depth() -> None:
    inputs = Case(3, 4, depth=5).tensors()
    torch.testing.assert_close(
        ops.relative_attention_2d(*inputs), ops.relative_attention_2d(*inputs, scale=1 / math.sqrt(5))
    )


def test_scale_multiplies_content_and_position_alike() -> None:
    q, k, v, rel_h, rel_w = Case(3, 4).tensors()
    scaled = ops.relative_attention_2d(q, k, v, rel_h, rel_w, scale=0.7)
    torch.testing.assert_close(scaled, ops.relative_attention_2d(q, 0.7 * k, v, 0.7 * rel_h, 0.7 * rel_w, scale=1.0))


def test_tables_are_read_by_key_minus_query() -> None:
    """A table that rewards one offset sends every pixel's attention there: row L - 1 + offset."""
    height, width = 4, 3
    q, k = torch.ones(1, 1, height, width, 1), torch.zeros(1, 1, height, width, 1)
    below, left = torch.zeros(2 * height - 1, 1), torch.zeros(2 * width - 1, 1)
    below[height - 1 + 1] = 100
    left[width - 1 - 1] = 50
    weights = ops.relative_attention_2d_weights(q, k, below, left).view(height, width, height, width)
    for y in range(height - 1):
        for x in range(1, width):
            assert weights[y, x, y + 1, x - 1] > 0.999, f"pixel {(y, x)} must look one down and one left"


def test_without_content_two_keys_compare_by_their_offsets_only() -> None:
    q, k, _, rel_h, rel_w = Case(4, 5).tensors()
    q = q[:, :, :1, :1].expand_as(q)
    log = ops.relative_attention_2d_weights(q, torch.zeros_like(k), rel_h, rel_w).log().view(1, 2, 4, 5, 4, 5)
    # Query, key and another key, all moved by one down and one right: the ratio of the two weights stays.
    here = log[:, :, :-1, :-1, :-1, :-1]
    moved = log[:, :, 1:, 1:, 1:, 1:]
    torch.testing.assert_close(here - here[..., :1, :1], moved - moved[..., :1, :1])
    assert (here - here[..., :1, :1]).abs().max() > 0.1


def test_without_positions_permuted_pixels_give_the_permuted_output() -> None:
    q, k, v, rel_h, rel_w = Case(3, 4).tensors()
    order = torch.randperm(12)

    def permuted(x: Tensor) -> Tensor:
        return x.flatten(2, 3)[:, :, order].unflatten(2, (3, 4))

    def attend(q: Tensor, k: Tensor, v: Tensor, factor: float) -> Tensor:
        return ops.relative_attention_2d(q, k, v, factor * rel_h, factor * rel_w)

    before, after = attend(q, k, v, 0.0), attend(permuted(q), permuted(k), permuted(v), 0.0)
    torch.testing.assert_close(after, permuted(before))
    with_positions = attend(permuted(q), permuted(k), permuted(v), 1.0)
    assert not torch.allclose(with_positions, permuted(attend(q, k, v, 1.0)), atol=1e-2)


def test_inputs_need_not_be_contiguous_and_stay_as_they_are() -> None:
    inputs = Case(3, 4, value_depth=2).tensors()
    strided = [x.detach().transpose(0, -1).contiguous().transpose(0, -1) for x in inputs]
    assert not any(x.is_contiguous() for x in strided)
    copies = [x.clone() for x in strided]
    torch.testing.assert_close(ops.relative_attention_2d(*strided), ops.relative_attention_2d(*inputs))
    assert all(torch.equal(x, copy) for x, copy in zip(strided, copies, strict=True))


def test_large_logits_do_not_overflow() -> None:
    q, k, v, rel_h, rel_w = (x.detach().float() for x in Case(3, 4).tensors())
    out = ops.relative_attention_2d(q * 1e4, k, v, rel_h, rel_w)
    assert out.isfinite().all()
    assert out.abs().max() <= v.abs().max()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_every_backend_equals_the_loops(backend: str) -> None:
    inputs = Case(3, 4).tensors()
    torch.testing.assert_close(
        ops.relative_attention_2d(*inputs, backend=backend), loops(*inputs, scale=3**-0.5), rtol=1e-10, atol=1e-12
    )


def test_shapes_that_do_not_fit_are_errors() -> None:
    q, k, v, rel_h, rel_w = Case(3, 4).tensors()
    attend = ops.relative_attention_2d
    with pytest.raises(UsageError, match=r"`q` and `k` must be \(B, heads, H, W, d\); got shapes \(1, 2, 3, 4\)"):
        attend(q[..., 0], k, v, rel_h, rel_w)
    with pytest.raises(UsageError, match=r"`k` \(shape .*\) must have the batch, map and depth of `q`"):
        attend(q, k[:, :, :2], v, rel_h, rel_w)
    with pytest.raises(UsageError, match=r"`v` \(shape .*\) must have the batch, heads and map of `k`"):
        attend(q, k, v[:, :1], rel_h, rel_w)
    with pytest.raises(UsageError, match=r"`heads of k` \(=2\) must divide `heads of q` \(=3\)"):
        attend(torch.cat((q, q[:, :1]), dim=1), k, v, rel_h, rel_w)
    with pytest.raises(UsageError, match=r"`rel_h` \(shape \(4, 3\)\) must be \(5, 3\) for a map of 3 x 4"):
        attend(q, k, v, rel_h[1:], rel_w)
    with pytest.raises(UsageError, match=r"`rel_w` .* resize_relative_table\(rel_w, 4\) reads it at this size"):
        attend(q, k, v, rel_h, rel_w[:, :2])


def test_unknown_backend_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"`backend` \(='refrence'\) must be one of .*did you mean 'reference'"):
        ops.relative_attention_2d(*Case(1, 1).tensors(), backend="refrence")
