"""What a network costs: parameters, multiply-accumulates, time, memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from saccade._checks import check_device
from saccade.errors import UsageError
from saccade.profiling.macs import count_macs
from saccade.profiling.memory import training_bytes
from saccade.profiling.timing import Timing, time_each


@dataclass(frozen=True)
class Cost:
    """The cost of a network on one batch. Times are in milliseconds.

    ``macs`` are multiply-accumulates of a forward of the whole batch, all of them: convolutions, linear layers, matrix
    products of attention, gates, interpolation; ``macs_per_image`` those of its first image alone, ``flops`` twice
    ``macs``. ``latency`` is the time of a forward of the batch in eval mode, ``latency_one`` of its first image alone,
    ``latency_compiled`` and ``latency_one_compiled`` by ``torch.compile``; ``throughput`` is in images per second, from
    ``latency``.
    ``train_step`` is the time of a training step. ``peak_memory`` is the most bytes that tensors hold at once in one:
    parameters, buffers, SGD's momentum and the batch, with what the step allocates on top. ``state_bytes`` are those of
    the state dict's tensors: what a safetensors file of it holds beside its header, about 100 bytes a tensor.

    What was not asked for is None; so is ``peak_memory`` on a device other than CUDA and CPU. Where compiling failed,
    ``compile_error`` says why.
    """

    batch_size: int
    params: int
    macs: int
    macs_per_image: int
    state_bytes: int
    latency: Timing
    latency_one: Timing
    latency_compiled: Timing | None
    latency_one_compiled: Timing | None
    compile_error: str | None
    train_step: Timing | None
    peak_memory: int | None

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def latency_ms(self) -> float:
        """The median of ``latency``."""
        return self.latency.p50

    @property
    def train_step_ms(self) -> float | None:
        """The median of ``train_step``."""
        return None if self.train_step is None else self.train_step.p50

    @property
    def peak_memory_mib(self) -> float | None:
        """``peak_memory`` in units of 2**20 bytes."""
        return None if self.peak_memory is None else self.peak_memory / 2**20

    @property
    def throughput(self) -> float:
        """Images per second, in eval mode at this batch."""
        return 1e3 * self.batch_size / self.latency.p50


def cost(
    model: nn.Module,
    example_input: Tensor,
    *,
    device: torch.device | str | None = None,
    train: bool = True,
    compile: bool = False,
) -> Cost:
    """Measure what a network costs.

    Args:
        model: any network that maps ``example_input`` to a tensor, or a structure of tensors. A copy is measured; the
            model is not changed.
        example_input: one batch.
        device: where to measure, by default where the model is.
        train: also measure a training step, its time and memory: forward in train mode, backward of the output's mean,
            one step of SGD with momentum.
        compile: also measure the latency by ``torch.compile``.

    Raises:
        UsageError: the model has no parameters, or cannot be run on ``example_input``; a device that cannot be used.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"`model` (={model!r}) must be an nn.Module; saccade.nets.Host.parse(name).build() gives one")
    if not isinstance(example_input, Tensor) or example_input.dim() == 0 or len(example_input) == 0:
        raise UsageError("`example_input` must be a tensor with a batch of at least one image, (B, C, H, W)")
    first = next(model.parameters(), None)
    if first is None:
        raise UsageError(f"`model` (={type(model).__name__}) has no parameters")
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # what a model keeps beside its tensors may refuse in any way
        raise UsageError(f"{type(model).__name__} cannot be copied ({error}), and measuring would change it") from error
    name = type(model).__name__
    where = first.device if device is None else device
    return measure({name: copied}, example_input, device=where, train=train, compile=compile)[name]


def measure(
    models: Mapping[str, nn.Module],
    batch: Tensor,
    *,
    device: torch.device | str,
    train: bool = True,
    compile: bool = False,
    budget_s: float = 1.0,
    on_stage: Callable[[str], None] = lambda _stage: None,
    on_next: Callable[[str], None] = lambda _name: None,
) -> dict[str, Cost]:
    """The costs of several networks, timed in turns. They are moved to the device, and trained.

    Args:
        models: the networks by name, for errors and for the result.
        batch, device, train, compile: as of :func:`cost`.
        budget_s: seconds to spend on each of the times of each network, as in :func:`time_each`.
        on_stage: is told what is measured next.
        on_next: is told the name of the network that runs next, every time, outside of what is timed.
    """
    where = check_device(device)
    batch = batch.to(where)
    shape = tuple(batch.shape)
    macs, macs_one = {}, {}
    on_stage("multiply-accumulates")
    for name, model in models.items():
        on_next(name)
        with _told(f"{name} cannot be run on `example_input` of shape {shape}: "):
            model.to(where)
            macs[name] = count_macs(model, batch)
            macs_one[name] = macs[name] if len(batch) == 1 else count_macs(model, batch[:1])

    def latency(images: Tensor) -> dict[str, Timing]:
        on_stage(f"latency, batch {len(images)}")
        actions = {name: forward(model, images) for name, model in models.items()}
        return time_each(actions, device=where, budget_s=budget_s, on_next=on_next)

    many = latency(batch)
    one = many if len(batch) == 1 else latency(batch[:1])
    compiled, compiled_one, errors, steps, memory = {}, {}, {}, {}, {}
    if compile:
        on_stage("compiled latency")
        (compiled, compiled_one), errors = _compiled(models, batch, budget_s=budget_s, on_next=on_next)
    if train:
        on_stage("training steps")
        steps, memory = _training(models, batch, budget_s=budget_s, on_next=on_next)
    return {
        name: Cost(
            batch_size=len(batch),
            params=sum(parameter.numel() for parameter in model.parameters()),
            macs=macs[name],
            macs_per_image=macs_one[name],
            state_bytes=_state_bytes(model),
            latency=many[name],
            latency_one=one[name],
            latency_compiled=compiled.get(name),
            latency_one_compiled=compiled_one.get(name),
            compile_error=errors.get(name),
            train_step=steps.get(name),
            peak_memory=memory.get(name),
        )
        for name, model in models.items()
    }


def _compiled(
    models: Mapping[str, nn.Module], batch: Tensor, *, budget_s: float, on_next: Callable[[str], None]
) -> tuple[tuple[dict[str, Timing], dict[str, Timing]], dict[str, str]]:
    """The latencies by torch.compile, of the batch and of its first image; for what cannot be compiled the reason."""
    from torch._dynamo import config

    many, one, errors = {}, {}, {}
    # Variants of a host run the same code, of which PyTorch by default compiles 8 forms, and then no more, silently.
    with config.patch(recompile_limit=2**16, accumulated_recompile_limit=2**16):
        for name, model in models.items():
            on_next(name)
            try:
                compiled = cast(nn.Module, torch.compile(model))
                actions = forward(compiled, batch), forward(compiled, batch[:1])
                for action in actions:
                    action()
            except Exception as error:  # noqa: BLE001  a compiler may fail in any way
                errors[name] = f"{type(error).__name__}: {_first_line(error)}"
            else:
                many[name], one[name] = actions
        timings = time_each(many, device=batch.device, budget_s=budget_s, on_next=on_next)
        if len(batch) == 1:
            return (timings, timings), errors
        return (timings, time_each(one, device=batch.device, budget_s=budget_s, on_next=on_next)), errors


def _training(
    models: Mapping[str, nn.Module], batch: Tensor, *, budget_s: float, on_next: Callable[[str], None]
) -> tuple[dict[str, Timing], dict[str, int | None]]:
    hint = "; give train=False (--no-train), or a batch of two at least where BatchNorm needs one"
    steps, memory = {}, {}
    for name, model in models.items():
        on_next(name)
        with _told(f"{name} cannot be trained on `example_input`: ", hint):
            steps[name] = train_step(model, batch)
            memory[name] = training_bytes(model, batch, steps[name])
        model.zero_grad()  # gradients that wait are no part of the next one's cost
    return time_each(steps, device=batch.device, budget_s=budget_s, on_next=on_next), memory


def _state_bytes(model: nn.Module) -> int:
    """Of the tensors of the state dict; one that has several names counts once."""
    tensors = [value for value in model.state_dict().values() if isinstance(value, Tensor)]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


@contextmanager
def _told(what: str, hint: str = "") -> Iterator[None]:
    """A network may fail in any way; where it does, say at what."""
    try:
        yield
    except Exception as error:
        raise UsageError(f"{what}{_first_line(error)}{hint}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def forward(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """One forward in eval mode, as an action to time."""

    def action() -> None:
        with torch.inference_mode():
            model(x)

    model.eval()
    return action


def train_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """One training step, as an action to time. It changes the model."""
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def action() -> None:
        optimiser.zero_grad()
        outputs = [leaf for leaf in tree_leaves(model(x)) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if not outputs:
            raise RuntimeError("its output depends on no parameter that learns")
        torch.stack([output.mean() for output in outputs]).sum().backward()
        optimiser.step()

    model.train()
    return action
