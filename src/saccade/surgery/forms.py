"""The forms in which an attention enters beside a module: the paper's own, and those that start as the identity."""

# B batch, C channels, H W the map

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from saccade.surgery.plan import Edit, Mark


class AttachedEdit(nn.Module):
    """An attention at a site: from what the module takes, x, and gives, y, to the new y. The paper's form.

    ``before`` a module, both are what it takes. A map of layout ``"nhwc"`` is seen as (B, C, H, W).
    """

    def __init__(self, attention: nn.Module, edit: Edit, layout: str = "nchw") -> None:
        super().__init__()
        self.attention = attention
        self.mark = Mark(edit)
        self.nhwc = layout == "nhwc"
        self.before = edit.mode == "before"

    @property
    def edit(self) -> Edit:
        """The edit of the plan that this is."""
        return self.mark.edit

    def forward(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        if self.nhwc:
            return self.form(module, x, y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.form(module, x, y)

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        """The new y of a module, (B, C, H, W)."""
        return self.attention(y)

    def extra_repr(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"{self.edit}, {count:,} parameters"


class Blend(AttachedEdit):
    """An identity start by a factor a, ``alpha``, that starts at 0; at 1 it gives the paper's form."""

    def __init__(self, attention: nn.Module, edit: Edit, layout: str = "nchw") -> None:
        super().__init__(attention, edit, layout)
        self.alpha = nn.Parameter(torch.zeros(1))


class GateBlend(Blend):
    """Identity start of a gate g: ``y * ((1 - a) + a * g(y))``, exactly y at a = 0, exactly ``y * g(y)`` at a = 1.

    That is the paper's form, but for rounding where a mechanism multiplies by two maps one after the other.
    """

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        # A gate of a wider type than y must not widen the host's map.
        gate = cast(Callable[[Tensor], Tensor], self.attention.gate)(y).to(y.dtype)
        alpha = self.alpha.to(y.dtype)
        return y * ((1 - alpha) + alpha * gate)


class TermBlend(Blend):
    """Identity start of an added term t: ``y + a * t(y)``, exactly y at a = 0, the paper's form at a = 1."""

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        term = cast(Callable[[Tensor], Tensor], self.attention.term)(y).to(y.dtype)
        return y + self.alpha.to(y.dtype) * term


class ScaleBlend(Blend):
    """Identity start of a normalisation whose scale is gated: ``y + a * (g(x) - 1) * (y - shift)``.

    y is what the host's normalisation gives, shift its bias: at a = 1 its scale is multiplied by g, up to rounding.
    """

    def form(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        gate = cast(Callable[[Tensor], Tensor], self.attention.gate)(x)
        scaled = (gate - 1).to(y.dtype) * (y - cast(Tensor, module.bias).to(y.dtype)[:, None, None])
        return y + self.alpha.to(y.dtype) * scaled


class Difference(AttachedEdit):
    """Identity start of a warp: ``y + (warp(y) - unmoved(y))``, the same map read where the warp would not move it.

    Interpolation at the identity is not exact, and a warp of a factor 0 would never learn; the difference is 0 and
    learns. It differs from the paper's warp by that error of interpolation.
    """

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        return y + (self.attention(y) - cast(Callable[[Tensor], Tensor], self.attention.unmoved)(y))


class ConvBlend(Blend):
    """Identity start of attention in a convolution's place: blended into the last channels of the whole convolution.

    ``cat(y[:-d], (1 - a) * y[-d:] + a * attention(x))``, d the attention's channels: exactly the convolution at a = 0,
    at a = 1 the augmented convolution, but for the rounding of a convolution with fewer filters.
    """

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        attended = self.attention(x).to(y.dtype)
        alpha = self.alpha.to(y.dtype)
        keep = y.shape[1] - attended.shape[1]
        blended = (1 - alpha) * y[:, keep:] + alpha * attended
        # Joined to no channels it would lose y's layout in memory.
        return torch.cat((y[:, :keep], blended), dim=1) if keep else blended


class ConvTerm(AttachedEdit):
    """Identity start of a term made from a convolution's input that is zero at first by itself: ``y + t(x)``."""

    def form(self, module: nn.Module, x: Any, y: Tensor) -> Tensor:
        return y + self.attention(x).to(y.dtype)
