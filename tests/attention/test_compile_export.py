"""Every mechanism compiles into one graph, and exports into one program that serves every batch, height and width."""

from __future__ import annotations

import copy

import pytest
import torch

import saccade
from attention.builders import ALL, VARIANTS, Variant, build, maps
from attention.zero_gradients import zero_by_mathematics

NAMES = saccade.list_attention()

# PyTorch's export asks of every size that it works out from others that it be 1 always or never: where a map is made
# smaller, the program takes maps of which the smaller one has at least 2 positions each way.
LEAST_SIZE = {
    "residual_mask": 3,  # pools every second position, so does gam
    "residual_mask(activation='spatial')": 3,
    "residual_mask(activation='channel', depth=2)": 5,  # twice
    "gam(pool=True)": 3,
    "ge(gather='depthwise', excite='mlp', extent=4)": 5,  # every fourth position
    "ge(extent=2)": 3,
    "aaconv(heads=4, dk=8, dv=4, kv_heads=2, downsample=2)": 4,  # of 3 PyTorch does not prove what holds
    "nonlocal(pairwise='embedded_gaussian', subsample=True, subsample_input=True)": 4,  # pools whole pairs, as sagan
    "nonlocal(pairwise='gaussian', subsample=True)": 4,
    "nonlocal(pairwise='dot_product', subsample=True)": 4,
    "nonlocal(pairwise='concatenation', subsample=True, norm=False)": 4,
    "sagan(value_reduction=2, pool=True, spectral_norm=True)": 4,
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("variant", "mode"),
    [(Variant(name), mode) for name in NAMES for mode in ("eval", "train")] + [(v, "train") for v in VARIANTS],
    ids=str,
)
def test_one_graph_computes_the_same_with_the_same_gradients(variant: Variant, mode: str) -> None:
    module = variant.build(8).train(mode == "train")
    eager = copy.deepcopy(module)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = maps(2, 8, *variant.sizes((5, 4))[0]).requires_grad_()
    expected, actual = eager(x), compiled(x)
    torch.testing.assert_close(actual, expected)
    for out in (expected, actual):
        out.square().sum().backward()
    largest = max((p.grad.abs().max().item() for p in eager.parameters()), default=0.0)
    for (key, p), (_, q) in zip(module.named_parameters(), eager.named_parameters(), strict=True):
        # Sums may be taken in another order: rounding of float32, beside the largest of all gradients.
        torch.testing.assert_close(
            p.grad, q.grad, rtol=1e-4, atol=1e-6 * largest, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize(
    ("variant", "strict"),
    [(Variant(name), strict) for name in NAMES for strict in (False, True)] + [(v, False) for v in VARIANTS],
    ids=lambda value: ("strict" if value else "nonstrict") if isinstance(value, bool) else str(value),
)
def test_one_exported_program_serves_every_size(variant: Variant, strict: bool) -> None:
    module = variant.build(8)
    least = LEAST_SIZE.get(str(variant), 1)
    batch = torch.export.Dim("batch", min=1, max=64)
    height, width = (torch.export.Dim(axis, min=least, max=64) for axis in ("height", "width"))
    shapes = ({0: batch} if variant.size else {0: batch, 2: height, 3: width},)
    x = maps(2, 8, *variant.sizes((6, 7))[0])
    program = torch.export.export(module, (x,), dynamic_shapes=shapes, strict=strict).module()
    for size in variant.sizes((3, 4), (9, 5), (16, 17), (1, 9), (least, least), (least, 9), (9, least)):
        for count in (1, 3) if min(size) >= least else ():
            x = maps(count, 8, *size)
            torch.testing.assert_close(program(x), module(x))


def test_the_least_sizes_are_of_variants_that_are_tested() -> None:
    assert set(LEAST_SIZE) <= {str(variant) for variant in ALL}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aaconv", "cbam", "gam", "halo", "lambda", "nonlocal"])
def test_compiled_code_computes_the_same_with_the_same_gradients(name: str) -> None:
    module = build(name, 16).train()
    eager, x = copy.deepcopy(module), maps(2, 16, 9, 7)
    compiled = torch.compile(module, fullgraph=True)
    expected, actual = eager(x), compiled(x)
    # Fused loops sum in another order, and multiply and add at once.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    for out in (expected, actual):
        out.square().sum().backward()
    for (key, p), (_, q) in zip(module.named_parameters(), eager.named_parameters(), strict=True):
        if zero_by_mathematics(Variant(name), key, "train"):
            continue  # What is left of it is rounding.
        scale = q.grad.abs().max().item()
        torch.testing.assert_close(
            p.grad, q.grad, rtol=1e-4, atol=1e-5 * max(1, scale), msg=lambda text, key=key: f"{key}: {text}"
        )
