"""An average of the weights over the steps, which often does better than the last ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """``average <- decay average + (1 - decay) weights`` after every step, from the first weights on.

    Running statistics are averaged alike; whole numbers (how many batches BatchNorm has seen) are taken as they are.
    PyTorch's ``AveragedModel`` asks the device at each step whether it is the first, for which a GPU has to stop.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        floats = [(ours, theirs) for ours, theirs in pairs if ours.is_floating_point()]
        torch._foreach_lerp_([ours for ours, _ in floats], [theirs for _, theirs in floats], 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage]
        for ours, theirs in pairs:
            if not ours.is_floating_point():
                ours.copy_(theirs)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
