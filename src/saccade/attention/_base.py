"""What every mechanism is, and what the ones that multiply share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from saccade.attention._card import Paper


class Mechanism(nn.Module):
    """A module with a paper."""

    paper: ClassVar[Paper]


class Gate(Mechanism, ABC):
    """A mechanism that multiplies its input by a map made from it."""

    @abstractmethod
    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied; its shape broadcasts to that of x, (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast a gate can be of a wider type than x; it must not widen the map.
        return x * self.gate(x).to(x.dtype)
