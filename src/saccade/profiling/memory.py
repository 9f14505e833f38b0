"""How much memory a training step takes, as PyTorch's allocators see it."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn


def training_bytes(model: nn.Module, batch: Tensor, step: Callable[[], None]) -> int | None:
    """The most bytes that tensors hold at once in a training step after the first.

    Counted are the parameters, buffers, the momentum of SGD and the batch, which are there all the time, and what the
    step allocates on top: activations kept for the backward, gradients, and scratch tensors of operators. On CUDA the
    top is the allocator's own counter (``torch.cuda.max_memory_allocated``), which rounds each tensor up to 512 bytes;
    on a CPU it is read from the allocations and frees that torch.profiler records. Not counted: what a library takes
    past PyTorch's allocator (oneDNN's and cuDNN's own buffers, CUDA's context), and memory that an allocator keeps
    free.

    Args:
        model: what ``step`` trains.
        batch: what it trains on.
        step: one training step by SGD with momentum, which begins without gradients.

    Returns:
        None on a device other than CUDA and CPU.
    """
    measures = {"cpu": _top_on_cpu, "cuda": _top_on_cuda}
    step()  # from now on there is momentum
    if batch.device.type not in measures:
        return None
    learned = [parameter for parameter in model.parameters() if parameter.grad is not None]
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), *learned, batch))
    model.zero_grad()
    return held + measures[batch.device.type](step, batch.device)


def _top_on_cuda(step: Callable[[], None], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _top_on_cpu(step: Callable[[], None], _device: torch.device) -> int:
    # Unless told otherwise before its first use, the recorder tells of its start and end on standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    recorder = torch.autograd.profiler.profile(profile_memory=True, use_kineto=False)  # what torch.profiler wraps
    with recorder:
        step()
    assert recorder.kineto_results is not None, "a profiler that was left has its events"
    events: list[Any] = recorder.kineto_results.events()
    # Each is an allocation or, negative, a free. Frees of what was there before are not recorded: no sum falls below 0.
    changes = sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns())
    return max(accumulate((change.nbytes() for change in changes), initial=0))
