"""What every mechanism of the catalogue promises: any map, any batch, small channels, and the states of a tensor."""

from __future__ import annotations

import copy
import re
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

import saccade
from attention.builders import ALL, VARIANTS, Variant, build, every_variant, maps
from attention.zero_gradients import (
    ONE_PIXEL_ZEROS,
    ONE_UNIT_ZEROS,
    ZERO_ROWS,
    ZEROS,
    ZeroRows,
    zero_by_mathematics,
)
from saccade.attention._base import ConvLike
from saccade.attention.catalog import MECHANISMS
from saccade.errors import UsageError

NAMES = saccade.list_attention()
every_mechanism = pytest.mark.parametrize("name", NAMES)
BY_CALL = {str(variant): variant for variant in ALL}
CHANNELS = [(Variant(name), channels) for name in NAMES for channels in (8, 20, 64, 96, 512)]


@pytest.mark.parametrize(
    ("variant", "channels"),
    CHANNELS + [(variant, 20) for variant in VARIANTS],
    ids=lambda value: f"C{value}" if isinstance(value, int) else str(value),
)
def test_a_single_map_of_any_size_trains(variant: Variant, channels: int) -> None:
    module = variant.build(channels).train()
    for size in variant.sizes((7, 5), (1, 6), (4, 1), (1, 1)):
        module.zero_grad()
        x = maps(1, channels, *size).requires_grad_()
        out = module(x)
        assert out.shape == x.shape
        out.square().sum().backward()
        assert out.isfinite().all(), size
        assert x.grad is not None
        assert x.grad.isfinite().all(), size
        bad = [key for key, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not bad, size


@every_mechanism
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_very_few_channels_work(name: str, channels: int) -> None:
    if name == "shuffle" and channels % 2:  # it halves the channels
        with pytest.raises(UsageError, match=rf"`channels` \(={channels}\) must be even"):
            build(name, channels)
        return
    x = maps(2, channels, 5, 4)
    out = build(name, channels)(x)
    assert out.shape == x.shape
    assert out.isfinite().all()


@every_mechanism
def test_random_parameters_change_the_input(name: str) -> None:
    x = maps(2, 20, 5, 4)
    assert (build(name, 20)(x) - x).abs().max() > 1e-3


def without_gradient(module: nn.Module, x: torch.Tensor) -> set[str]:
    """The parameters that a step would not change, whatever its length."""
    module.double()(x.double().requires_grad_()).pow(3).sum().backward()
    sizes = {key: p.grad.abs().max().item() if p.grad is not None else 0.0 for key, p in module.named_parameters()}
    # What mathematics makes zero is, in float64, rounding: 1e-15 or so of the largest.
    return {key for key, size in sizes.items() if size <= 1e-6 * max(sizes.values())}


def switch_on(module: nn.Module) -> None:
    """Shift what is normalised upwards: a ReLU that is off for a whole batch is not what is tested."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.LayerNorm | nn.BatchNorm2d):
                layer.bias.abs_()


@every_variant
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_gradient_is_there_but_those_that_mathematics_makes_zero(variant: Variant, mode: str) -> None:
    module = variant.build(64).train(mode == "train")
    zero = without_gradient(module, maps(2, 64, *variant.sizes((14, 13))[0]))
    assert zero == {key for key, _ in module.named_parameters() if zero_by_mathematics(variant, key, mode)}


@pytest.mark.parametrize("variant", [variant for variant in ALL if variant.size is None], ids=str)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_on_one_pixel_every_gradient_is_there_but_those_that_are_listed(variant: Variant, mode: str) -> None:
    module = variant.build(64).train(mode == "train")
    switch_on(module)
    zero = without_gradient(module, maps(64, 64, 1, 1))
    listed = {key for key, _ in module.named_parameters() if zero_by_mathematics(variant, key, mode, one_pixel=True)}
    assert zero == listed


@pytest.mark.parametrize(("call", "channels"), ONE_UNIT_ZEROS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_with_one_unit_every_gradient_is_there_but_those_that_are_listed(call: str, channels: int, mode: str) -> None:
    variant = BY_CALL[call]
    module = variant.build(channels).train(mode == "train")
    switch_on(module)
    zero = without_gradient(module, maps(4, channels, 7, 5))
    names = [key for key, _ in module.named_parameters()]
    assert zero == {key for key in names if zero_by_mathematics(variant, key, mode, one_unit=channels)}


@pytest.mark.parametrize("case", ZERO_ROWS, ids=lambda case: f"{case.variant}-{case.size}-{case.parameter}-{case.axis}")
def test_the_rows_of_a_table_without_gradient_are_those_that_are_listed(case: ZeroRows) -> None:
    module = BY_CALL[case.variant].build(20)
    module(maps(2, 20, *case.size)).square().sum().backward()
    rows = module.get_parameter(case.parameter).grad.movedim(case.axis, 0).flatten(1)
    assert tuple((rows == 0).all(1).nonzero().flatten().tolist()) == case.rows


def test_the_lists_of_zero_gradients_name_parameters_that_exist() -> None:
    for zeros in (ZEROS, ONE_PIXEL_ZEROS):
        for call, entries in zeros.items():
            # An entry of a mechanism holds for its variants too, unless they have their own.
            sharing = [v for v in ALL if str(v) == call or (v.name == call and str(v) not in zeros)]
            names = [key for variant in sharing for key, _ in variant.build(64).named_parameters()]
            for zero in entries:
                assert any(fnmatchcase(key, zero.parameters) for key in names), (call, zero)


@every_mechanism
def test_the_papers_initialisation_trains_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    module = saccade.create_attention(name, 64).train()
    before = copy.deepcopy(dict(module.named_parameters()))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1) if before else None
    for step in range(3):
        module.zero_grad()
        module(maps(4, 64, 14, 13, seed=step).requires_grad_()).pow(3).mean().backward()
        bad = [key for key, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not bad
        if optimiser is not None:
            optimiser.step()
    still = {key for key, p in module.named_parameters() if torch.equal(p, before[key])}
    assert not {key for key in still if not zero_by_mathematics(Variant(name), key, "train")}


@every_mechanism
def test_every_parameter_exists_before_the_first_forward(name: str) -> None:
    module = saccade.create_attention(name, 20)
    before = {key: (id(p), p.shape) for key, p in module.named_parameters()}
    for size in [(14, 14), (5, 9)]:
        module(maps(2, 20, *size))
    assert {key: (id(p), p.shape) for key, p in module.named_parameters()} == before


@every_variant
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_gradients_equal_finite_differences(variant: Variant, mode: str) -> None:
    module = variant.build(4).double().train(mode == "train")
    keys = list(module.state_dict(keep_vars=True))
    trained = [key for key, _ in module.named_parameters()]

    def run(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        # Buffers are copied for each run: a run in train mode would change them.
        state = {key: module.get_buffer(key).clone() for key in keys if key not in trained}
        return torch.func.functional_call(module, state | dict(zip(trained, parameters, strict=True)), (x,))

    x = maps(2, 4, *variant.sizes((3, 2))[0], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *module.parameters()), fast_mode=True)


# Of what is compared below, only the order of the sums differs: in float64 it is rounding far under this.
SAME = {"rtol": 1e-9, "atol": 1e-10}


@every_mechanism
def test_samples_do_not_see_each_other_in_eval_mode(name: str) -> None:
    module, x = build(name, 20).double(), maps(3, 20, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]), **SAME)


@every_mechanism
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_input_is_not_changed(name: str, mode: str) -> None:
    module, x = build(name, 20).train(mode == "train"), maps(2, 20, 5, 4)
    before = x.clone()
    module(x)
    assert torch.equal(x, before)


@every_mechanism
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_channels_last_gives_the_same_and_the_same_gradients(name: str, mode: str) -> None:
    module = build(name, 20).double().train(mode == "train")
    outcomes = []
    for layout in (torch.contiguous_format, torch.channels_last):
        own = copy.deepcopy(module).to(memory_format=layout)
        x = maps(4, 20, 7, 5, dtype=torch.float64).to(memory_format=layout).requires_grad_()
        out = own(x)
        out.pow(3).sum().backward()
        outcomes.append({"out": out, "x": x.grad} | {key: p.grad for key, p in own.named_parameters()})
    for key, expected in outcomes[0].items():
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(outcomes[1][key] / scale, expected / scale, **SAME, msg=lambda t, k=key: f"{k}: {t}")


@every_mechanism
def test_a_map_that_is_a_view_gives_the_same(name: str) -> None:
    module, x = build(name, 20).double(), maps(2, 20, 7, 5, dtype=torch.float64)
    view = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert not view.is_contiguous()
    torch.testing.assert_close(module(view), module(x), **SAME)


# bfloat16 rounds by up to 2^-8, 0.004: parameters, input, and the results of the layers one after the other. A dozen
# such errors, or a warp that turns one of a coordinate into a step between neighbours, stay under this.
NEAR_BFLOAT16 = 0.05


@every_variant
def test_bfloat16_stays_bfloat16_and_near_float32(variant: Variant) -> None:
    module, x = variant.build(20), maps(2, 20, 7, 5).requires_grad_()
    expected = module(x)
    low = copy.deepcopy(module).bfloat16()
    out = low(x.bfloat16())
    assert out.dtype is torch.bfloat16
    assert (out.float() - expected).abs().max() < NEAR_BFLOAT16 * expected.abs().max()
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in low.parameters())


@every_mechanism
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_autocast_runs_forward_and_backward(name: str, mode: str) -> None:
    module, x = build(name, 20).train(mode == "train"), maps(2, 20, 7, 5).requires_grad_()
    expected = copy.deepcopy(module)(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert (out.float() - expected).abs().max() < NEAR_BFLOAT16 * expected.abs().max()
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert {p.grad.dtype for p in (x, *module.parameters()) if p.grad is not None} == {torch.float32}


@every_mechanism
def test_autocast_does_not_widen_a_map(name: str) -> None:
    module = build(name, 20)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(maps(2, 20, 7, 5, dtype=torch.bfloat16)).dtype is torch.bfloat16


@every_mechanism
def test_a_copy_computes_the_same_and_is_its_own(name: str) -> None:
    module, x = build(name, 20), maps(2, 20, 5, 4)
    before = module(x)
    other = copy.deepcopy(module)
    assert torch.equal(other(x), before)
    if not list(module.parameters()):
        return
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert torch.equal(module(x), before)
    assert not torch.equal(other(x), before)


@every_mechanism
def test_the_state_dict_holds_all_that_the_output_depends_on(name: str) -> None:
    module, x = build(name, 20), maps(2, 20, 5, 4)
    fresh = saccade.create_attention(name, 20).eval()
    assert torch.equal(fresh(x), module(x)) is not bool(list(module.parameters()))
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(x), module(x))


@every_mechanism
def test_builds_and_runs_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        module = saccade.create_attention(name, 20)
        out = module(torch.empty(2, 20, 5, 4))
    assert {tensor.device.type for tensor in (out, *module.state_dict().values())} == {"meta"}
    assert out.shape == (2, 20, 5, 4)


@every_mechanism
def test_a_wrong_input_is_an_error_that_says_what_fits(name: str) -> None:
    module = build(name, 8)
    with pytest.raises(UsageError, match=rf"{name} takes maps of shape \(B, C, H, W\); got 3 dimensions, \(8, 5, 4\)"):
        module(maps(8, 5, 4))
    with pytest.raises(UsageError, match=rf"{name} was built for 8 channels; got a map with 6.*channels=6"):
        module(maps(2, 6, 5, 4))
    with pytest.raises(UsageError, match=rf"{name} takes maps of at least one pixel; got \(2, 8, 0, 4\)"):
        module(maps(2, 8, 0, 4))
    with pytest.raises(UsageError, match=rf"{name} takes maps of at least one pixel; got \(2, 8, 5, 0\)"):
        module(maps(2, 8, 5, 0))
    with pytest.raises(UsageError, match=rf"{name} takes maps of .*; got 5 dimensions, \(2, 8, 1, 5, 4\)"):
        module(maps(2, 8, 1, 5, 4))


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in NAMES for option in saccade.describe(name).options]
)
def test_an_option_of_a_wrong_type_is_an_error_that_names_it(name: str, option: str) -> None:
    with pytest.raises(UsageError, match=rf"`{option}` \(=<object object at"):
        saccade.create_attention(name, 64, **{option: object()})


@every_mechanism
@pytest.mark.parametrize("channels", [0, -8, 8.0, None])
def test_channels_must_be_a_count(name: str, channels: object) -> None:
    with pytest.raises(UsageError, match=r"`(in_)?channels` \(=.*\) must be an integer of at least 1"):
        MECHANISMS[name](*((channels, 8, 3) if issubclass(MECHANISMS[name], ConvLike) else (channels,)))


@every_mechanism
def test_a_misspelt_option_is_an_error_that_names_the_nearest_and_all(name: str) -> None:
    options = list(saccade.describe(name).options)
    option, listed = options[0], ", ".join(options)
    message = rf"{name} has no option '{option}x' .*did you mean '{option}'.*\); its options are {re.escape(listed)}"
    with pytest.raises(UsageError, match=message):
        saccade.create_attention(name, 8, **{f"{option}x": 1})
