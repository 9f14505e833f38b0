"""What every mechanism is, and what those of one kind share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from saccade.attention._card import Paper
from saccade.errors import UsageError


class Mechanism(nn.Module):
    """A module with a paper."""

    paper: ClassVar[Paper]

    @property
    def starts_as_identity(self) -> bool:
        """Whether the paper's own form with the paper's own initialisation gives back its input."""
        return False

    @classmethod
    def sized(cls, in_size: tuple[int, int], out_size: tuple[int, int], options: dict[str, Any]) -> dict[str, Any]:
        """Options that follow from the sizes (H, W) of what the module at a site takes and gives; by default none."""
        return {}


class Gate(Mechanism, ABC):
    """A mechanism that multiplies its input by a map made from it."""

    @abstractmethod
    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied; its shape broadcasts to that of x, (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast a gate can be of a wider type than x; it must not widen the map.
        return x * self.gate(x).to(x.dtype)


class Additive(Mechanism, ABC):
    """A mechanism that adds to its input a term made from it: a context, or a position."""

    @abstractmethod
    def term(self, x: Tensor) -> Tensor:
        """What is added to x; its shape broadcasts to that of x, (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.term(x).to(x.dtype)


class ConvLike(Mechanism, ABC):
    """A mechanism that takes a convolution's place; the first arguments are those of ``torch.nn.Conv2d``."""

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options: Any) -> Self:
        """The mechanism in the place of a convolution: its channels and geometry, and its filters where shapes allow.

        Raises:
            UsageError: a convolution with groups, with padding other than zeros, or with padding given in words; an
                option that the convolution settles.
        """
        name = cls.__name__
        if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise UsageError(
                f"{name} can take the place of a convolution with groups=1 and numeric zero padding; got {conv}"
            )
        settled = {
            "kernel_size": conv.kernel_size,
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "bias": conv.bias is not None,
        }
        if given := [option for option in (*settled, "groups") if option in options]:
            raise UsageError(
                f"`{given[0]}` (={options[given[0]]!r}) is that of the convolution whose place {name} takes; "
                "leave it out"
            )
        known = inspect.signature(cls).parameters
        geometry = {option: value for option, value in settled.items() if option in known}
        module = cls(conv.in_channels, conv.out_channels, **geometry, **options)
        module.to(device=conv.weight.device, dtype=conv.weight.dtype)
        module.take_filters(conv)
        return module

    def take_filters(self, conv: nn.Conv2d) -> None:
        """Start from what fits of a convolution's filters; by default from nothing."""

    @property
    def host_filters(self) -> int:
        """How many filters :meth:`take_filters` takes; by default none."""
        return 0

    @property
    def blended(self) -> nn.Module:
        """What an identity start blends into the last channels of the whole convolution's output; by default all."""
        return self

    @property
    def added(self) -> nn.Module | None:
        """What an identity start adds to the convolution's output, if that is zero at first by itself."""
        return None


def take_rows(ours: Tensor, theirs: Tensor) -> None:
    """Copy a host's parameter, or its first rows; what is frozen there is frozen here."""
    ours.data.copy_(theirs.data[: len(ours)])
    ours.requires_grad_(theirs.requires_grad)
