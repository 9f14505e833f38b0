"""What every mechanism of the catalogue promises: any map, any batch, small channels, and the states of a tensor."""

from __future__ import annotations

import copy

import pytest
import torch

import saccade
from attention.builders import build, maps
from saccade.errors import UsageError

NAMES = saccade.list_attention()
every_mechanism = pytest.mark.parametrize("name", NAMES)
SIZES = [(7, 5), (1, 6), (4, 1), (1, 1)]


@every_mechanism
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("channels", [8, 20, 64, 96], ids=lambda channels: f"C{channels}")
def test_a_single_map_of_any_size_trains(name: str, channels: int, size: tuple[int, int]) -> None:
    module = build(name, channels).train()
    x = maps(1, channels, *size).requires_grad_()
    out = module(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@every_mechanism
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_very_few_channels_work(name: str, channels: int) -> None:
    x = maps(2, channels, 5, 4)
    out = build(name, channels)(x)
    assert out.shape == x.shape
    assert out.isfinite().all()


@every_mechanism
def test_every_parameter_has_a_gradient_that_is_not_zero(name: str) -> None:
    # In eval mode: before a BatchNorm in train mode a bias cannot have one.
    module = build(name, 64)
    module(maps(2, 64, 5, 4)).square().sum().backward()
    dead = [key for key, p in module.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead


@every_mechanism
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_gradients_equal_finite_differences(name: str, mode: str) -> None:
    module = build(name, 4).double().train(mode == "train")
    keys = list(module.state_dict(keep_vars=True))
    trained = [key for key, _ in module.named_parameters()]

    def run(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        # Buffers are copied for each run: a run in train mode would change them.
        state = {key: module.get_buffer(key).clone() for key in keys if key not in trained}
        return torch.func.functional_call(module, state | dict(zip(trained, parameters, strict=True)), (x,))

    x = maps(2, 4, 3, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *module.parameters()), fast_mode=True)


@every_mechanism
def test_samples_do_not_see_each_other_in_eval_mode(name: str) -> None:
    module, x = build(name, 20), maps(3, 20, 5, 4)
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]), rtol=1e-4, atol=1e-5)


@every_mechanism
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_input_is_not_changed(name: str, mode: str) -> None:
    module, x = build(name, 20).train(mode == "train"), maps(2, 20, 5, 4)
    before = x.clone()
    module(x)
    assert torch.equal(x, before)


@every_mechanism
def test_channels_last_gives_the_same(name: str) -> None:
    module, x = build(name, 20), maps(2, 20, 7, 5)
    expected = module(x)
    last = copy.deepcopy(module).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)


@every_mechanism
def test_a_map_that_is_a_view_gives_the_same(name: str) -> None:
    module, x = build(name, 20), maps(2, 20, 7, 5)
    view = maps(2, 20, 5, 7).copy_(x.transpose(2, 3)).transpose(2, 3)
    assert not view.is_contiguous()
    torch.testing.assert_close(module(view), module(x), rtol=1e-4, atol=1e-5)


@every_mechanism
def test_bfloat16_stays_bfloat16_and_near_float32(name: str) -> None:
    module, x = build(name, 20), maps(2, 20, 7, 5)
    expected = module(x)
    low = copy.deepcopy(module).bfloat16()
    out = low(x.bfloat16())
    assert out.dtype is torch.bfloat16
    # Eight bits of mantissa, a few roundings one after the other.
    assert (out.float() - expected).abs().max() < 0.05 * expected.abs().max()
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in low.parameters())


@every_mechanism
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_autocast_runs_forward_and_backward(name: str, mode: str) -> None:
    module, x = build(name, 20).train(mode == "train"), maps(2, 20, 7, 5)
    expected = copy.deepcopy(module)(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert (out.float() - expected).abs().max() < 0.05 * expected.abs().max()
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert {p.grad.dtype for p in module.parameters() if p.grad is not None} == {torch.float32}


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
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert torch.equal(module(x), before)
    assert not torch.equal(other(x), before)


@every_mechanism
def test_the_state_dict_holds_all_that_the_output_depends_on(name: str) -> None:
    module, x = build(name, 20), maps(2, 20, 5, 4)
    fresh = saccade.create_attention(name, 20).eval()
    assert not torch.equal(fresh(x), module(x))
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(x), module(x))


@every_mechanism
def test_builds_and_runs_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        module = saccade.create_attention(name, 20)
        out = module(torch.empty(2, 20, 5, 4))
    assert {tensor.device.type for tensor in module.state_dict().values()} == {"meta"}
    assert out.shape == (2, 20, 5, 4)


@every_mechanism
def test_a_wrong_input_is_an_error_that_says_what_fits(name: str) -> None:
    module = build(name, 8)
    with pytest.raises(UsageError, match=rf"{name} takes maps of shape \(B, C, H, W\); got 3 dimensions, \(8, 5, 4\)"):
        module(maps(8, 5, 4))
    with pytest.raises(UsageError, match=rf"{name} was built for 8 channels; got a map with 6.*channels=6"):
        module(maps(2, 6, 5, 4))


@every_mechanism
def test_a_misspelt_option_is_an_error_that_names_the_nearest(name: str) -> None:
    option = next(iter(saccade.describe(name).options))
    with pytest.raises(UsageError, match=rf"{name} has no option '{option}x' .*did you mean '{option}'"):
        saccade.create_attention(name, 8, **{f"{option}x": 1})
