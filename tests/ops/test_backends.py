"""Every backend of relative attention against the formula in float64, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ops.relative_inputs import SIZES, check_budget, inputs, results
from saccade import ops
from saccade.errors import UsageError
from saccade.ops.relative_attention import blocked


def with_backend(name: str, **options: float) -> Callable[..., Tensor]:
    return lambda *args: ops.relative_attention_2d(*args, backend=name, **options)


every_backend = pytest.mark.parametrize("backend", ["folded", "blocked"])


@every_backend
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"heads": 1, "kv_heads": 1, "value_depth": 1},
        {"heads": 4, "kv_heads": 2, "value_depth": 20},
        {"heads": 3, "kv_heads": 1, "depth": 5, "value_depth": 33, "batch": 1},
    ],
    ids=["N2", "N1-dv1", "N4-kv2-dv20", "N3-kv1-d5-dv33"],
)
def test_float32_is_as_exact_as_the_formula(backend: str, size: tuple[int, int], shape: dict[str, int]) -> None:
    check_budget(with_backend(backend), inputs(*size, **shape), torch.float32)


@every_backend
def test_float64_equals_the_formula(backend: str) -> None:
    tensors = inputs(7, 5, heads=4, kv_heads=2)
    for ours, theirs in zip(
        results(with_backend(backend), tensors), results(with_backend("reference"), tensors), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits_are_as_exact_as_the_formula(backend: str, dtype: torch.dtype) -> None:
    check_budget(with_backend(backend), inputs(14, 9), dtype)


@pytest.mark.parametrize("size", [(7, 5), (33, 20)], ids=str)
def test_large_logits_keep_the_budget(size: tuple[int, int]) -> None:
    check_budget(with_backend("blocked"), inputs(*size, times=8), torch.float32)


@pytest.mark.parametrize("size", [(7, 5), (33, 20)], ids=str)
def test_large_logits_cost_folded_some_digits(size: tuple[int, int]) -> None:
    # PyTorch's kernel takes exp(logit - logsumexp) in its backward pass, which rounds at the size of the logits.
    check_budget(with_backend("folded"), inputs(*size, times=8), torch.float32, factor=6)


@every_backend
def test_an_explicit_scale_multiplies_all_logits(backend: str) -> None:
    tensors = inputs(5, 4)
    for scale in (0.0, 0.3, 1.0):
        ours, theirs = (with_backend(name, scale=scale)(*tensors) for name in (backend, "reference"))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@every_backend
def test_inputs_and_cotangents_need_not_be_contiguous(backend: str) -> None:
    tensors = inputs(7, 5, value_depth=3)
    strided = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in tensors]
    assert not any(tensor.is_contiguous() for tensor in strided)
    attend = with_backend(backend)

    def leaves(values: list[Tensor]) -> list[Tensor]:
        return [value.detach().requires_grad_() for value in values]

    first, second = leaves(tensors), leaves(strided)
    cotangent = torch.randn(2, 3, 5, 7, 2, dtype=torch.float64).permute(0, 4, 3, 2, 1)
    expected, actual = attend(*first), attend(*second)
    torch.testing.assert_close(actual, expected)
    wanted = torch.autograd.grad(expected, first, cotangent.contiguous())
    given = torch.autograd.grad(actual, second, cotangent)
    for ours, theirs in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [(7, 5), (33, 20)], ids=str)
def test_blocked_writes_every_number_of_its_buffers(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With every new buffer full of NaN, none is left."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        assert all(tensor.isfinite().all() for tensor in results(with_backend("blocked"), inputs(*size)))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("maps", [1, 2, 5, 1000])
@pytest.mark.parametrize("pixels", [1, 7, 196, 511, 512, 513, 4096, 50176])
def test_blocks_cover_every_map_and_query_once(maps: int, pixels: int) -> None:
    seen = torch.zeros(min(maps, 20), pixels, dtype=torch.int64)
    for m, i in blocked.blocks(min(maps, 20), pixels):
        seen[m, i] += 1
        most = max(blocked.BLOCK, blocked.LEAST_QUERIES * pixels * torch.get_num_threads())
        assert (m.stop - m.start) * (i.stop - i.start) * pixels <= most
    assert (seen == 1).all()


@every_backend
def test_twice_gives_the_same_bits(backend: str) -> None:
    tensors = [tensor.float() for tensor in inputs(33, 20)]
    for first, second in zip(
        results(with_backend(backend), tensors), results(with_backend(backend), tensors), strict=True
    ):
        assert torch.equal(first, second)


@pytest.mark.parametrize("backend", ["reference", "folded", "blocked"])
def test_logits_depend_on_offsets_only(backend: str) -> None:
    """Equal content everywhere: a value far inside is read with the same weights wherever the query stands."""
    q, k, _, rel_h, rel_w = inputs(9, 8, heads=1, kv_heads=1, batch=1)
    q, k = q[:, :, :1, :1].expand_as(q), k[:, :, :1, :1].expand_as(k)
    pixels = torch.eye(72, dtype=torch.float64).view(1, 1, 9, 8, 72)
    weights = with_backend(backend)(q, k, pixels, rel_h, rel_w).view(9, 8, 9, 8)
    here, moved = weights[2, 2], weights[3, 4]
    ratio = here[:-1, :-2] / moved[1:, 2:]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))


# PyTorch's own tables of forward derivatives are made by the deprecated torch.jit.script.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_blocked_refuses_second_derivatives_and_vmap() -> None:
    leaves = [tensor.requires_grad_() for tensor in inputs(3, 2)]
    out = ops.relative_attention_2d(*leaves, backend="blocked")
    (grad,) = torch.autograd.grad(out.square().sum(), leaves[0], create_graph=True)
    with pytest.raises(UsageError, match="no second derivative; backend='reference' is plain PyTorch"):
        grad.sum().backward()
    stacked = [torch.stack((leaf, leaf)) for leaf in leaves]
    with pytest.raises(UsageError, match="no rule for vmap; backend='reference' is plain PyTorch"):
        torch.func.vmap(with_backend("blocked"))(*stacked)
    with pytest.raises(UsageError, match="no forward-mode derivative; backend='reference' is plain PyTorch"):
        torch.func.jvp(with_backend("blocked"), tuple(leaves), tuple(leaves))


def test_the_reference_takes_second_derivatives_and_vmap() -> None:
    leaves = [tensor.requires_grad_() for tensor in inputs(2, 2, depth=2, value_depth=2, batch=1)]
    assert torch.autograd.gradgradcheck(with_backend("reference"), leaves)
    stacked = [torch.stack((leaf, leaf)) for leaf in leaves]
    out = torch.func.vmap(with_backend("reference"))(*stacked)
    torch.testing.assert_close(out[1], with_backend("reference")(*leaves))


# The checks themselves look at gradients of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_operator_is_one_that_pytorch_can_compile(dtype: torch.dtype) -> None:
    from saccade.ops.relative_attention.operator import attend_forward

    for size, heads in [((1, 1), 1), ((7, 5), 2)]:
        tensors = [t.to(dtype).requires_grad_() for t in inputs(*size, heads=2, kv_heads=heads)]
        torch.library.opcheck(attend_forward, (*tensors, 0.3))


def test_a_compiled_graph_has_one_node_for_it() -> None:
    tensors = [tensor.float() for tensor in inputs(7, 5)]
    compiled = torch.compile(with_backend("auto"), fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(results(compiled, tensors), results(with_backend("auto"), tensors), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_exported_program_has_plain_operators_only() -> None:
    class Attend(torch.nn.Module):
        def forward(self, *args: Tensor) -> Tensor:
            return ops.relative_attention_2d(*args)

    tensors = tuple(tensor.float() for tensor in inputs(7, 5))
    for strict in (False, True):
        program = torch.export.export(Attend(), tensors, strict=strict)
        assert not any("saccade" in str(node.target) for node in program.graph.nodes)
        torch.testing.assert_close(program.module()(*tensors), Attend()(*tensors), rtol=1e-4, atol=1e-5)


def test_autocast_computes_in_its_type() -> None:
    tensors = [tensor.float().requires_grad_() for tensor in inputs(7, 5)]
    expected = ops.relative_attention_2d(*tensors, backend="reference")
    for backend in ("folded", "blocked"):
        with torch.autocast("cpu", torch.bfloat16):
            out = ops.relative_attention_2d(*tensors, backend=backend)
        assert out.dtype is torch.bfloat16
        assert (out.float() - expected).abs().max() < 0.03 * expected.abs().max()
        assert {grad.dtype for grad in torch.autograd.grad(out.sum(), tensors)} == {torch.float32}


def test_what_cannot_run_says_why_and_never_falls_back() -> None:
    tensors = inputs(3, 2)
    reasons = ops.available_backends(*tensors)
    assert list(reasons) == ["reference", "folded", "blocked", "triton"]
    assert [name for name, reason in reasons.items() if reason is None] == ["reference", "folded", "blocked"]
    assert reasons["triton"] == "it runs on CUDA devices, and q is on cpu"
    with pytest.raises(UsageError, match=r"`backend` \(='triton'\) cannot run here: it runs on CUDA devices"):
        ops.relative_attention_2d(*tensors, backend="triton")


def test_the_meta_device_gives_shapes() -> None:
    tensors = [tensor.to("meta").requires_grad_() for tensor in inputs(7, 5, heads=4, kv_heads=2)]
    out = ops.relative_attention_2d(*tensors)
    assert out.shape == (2, 4, 7, 5, 8)
    for grad, tensor in zip(torch.autograd.grad(out.sum(), tensors), tensors, strict=True):
        assert grad.shape == tensor.shape
