"""What a network costs: parameters, multiply-accumulates, time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saccade.errors import UsageError
from saccade.profiling.macs import count_macs
from saccade.profiling.timing import median_ms


@dataclass(frozen=True)
class Cost:
    """The cost of a network on one batch. Times are medians, in milliseconds; they and ``macs`` are of the whole batch.

    ``macs`` are multiply-accumulates of a forward, all of them: convolutions, linear layers, matrix products of
    attention, gates. ``flops`` are twice as many. ``train_step_ms`` is None where it was not asked for.
    """

    params: int
    macs: int
    latency_ms: float
    train_step_ms: float | None

    @property
    def flops(self) -> int:
        return 2 * self.macs


def cost(
    model: nn.Module, example_input: Tensor, *, device: torch.device | str | None = None, train: bool = True
) -> Cost:
    """Measure what a network costs.

    Args:
        model: any network that maps ``example_input`` to a tensor. A copy is measured; the model is not changed.
        example_input: one batch.
        device: where to measure, by default where the model is.
        train: also time a training step: forward in train mode, backward of the output's mean, one step of SGD.

    Raises:
        UsageError: the model has no parameters, or cannot be run on ``example_input``.
    """
    params = sum(parameter.numel() for parameter in model.parameters())
    if params == 0:
        raise UsageError(f"`model` (={type(model).__name__}) has no parameters")
    where = torch.device(device) if device is not None else next(model.parameters()).device
    model = copy.deepcopy(model).to(where)
    example_input = example_input.to(where)
    try:
        macs = count_macs(model, example_input)
        latency = median_ms({"forward": forward(model, example_input)}, device=where)["forward"]
    except (RuntimeError, ValueError, TypeError) as error:
        shape = tuple(example_input.shape)
        raise UsageError(
            f"{type(model).__name__} cannot be run on `example_input` of shape {shape}: {error}"
        ) from error
    try:
        step = median_ms({"step": train_step(model, example_input)}, device=where)["step"] if train else None
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"{type(model).__name__} cannot be trained on `example_input`: {error}; give train=False, or a batch of "
            "two at least where BatchNorm needs one"
        ) from error
    return Cost(params, macs, latency, step)


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
        model(x).mean().backward()
        optimiser.step()

    model.train()
    return action
