"""Polarized self-attention: a weight for each channel and one for each position, each from a query that pools."""

# B batch, C channels, H W the map, R hidden width (C / 2)

from __future__ import annotations

from torch import Tensor, nn

from saccade._checks import check_choice, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper

PAPER = Paper(
    title="Polarized Self-Attention: Towards High-quality Pixel-wise Regression",
    authors="Huajun Liu, Fuqiang Liu, Xinyi Fan, Dong Huang",
    year=2021,
    venue="arXiv",
    arxiv="2107.00782",
    kind="gate",
    attends="channel+spatial",
    equations=(
        "A_ch(x) = sigmoid(LN(W_z V(x) softmax over positions of q(x))), V: C -> C/2, q: C -> 1, W_z: C/2 -> C",
        "A_sp(x) = sigmoid((softmax over channels of the mean of Q(x)) . U(x)) at every position, Q, U: C -> C/2",
        "parallel: y = A_ch(x) * x + A_sp(x) * x",
        "sequential: y = A_sp(x') * x' with x' = A_ch(x) * x",
    ),
    deviations=(
        "The equations are the paper's from memory.",
        (
            'form="authors", parallel: no LayerNorm; the softmax of the spatial branch is over positions, after the '
            "product with the pooled query, which has none."
        ),
        (
            'form="authors", sequential: W_z is C/2 -> C/8, LayerNorm, ReLU, C/8 -> C; the softmax of the spatial '
            "branch is over positions, of U(x), before the product with the pooled query, which has none."
        ),
        (
            'Biases: form="paper" has them in every layer, as a public port of the equations; form="authors" has them '
            "only in the sequential W_z, as that code."
        ),
        "Layers start as PyTorch's do; the authors' code draws V, q, Q, U from another distribution (from memory).",
        "Linear layers that follow or precede a pooling are applied on its small side: the same but for rounding.",
        "C/2 and C/8 are rounded down, to no less than 1.",
    ),
    limits=(
        (
            'One channel (form="paper"), or fewer than 16 (form="authors", sequential): LayerNorm has one value, so '
            "the channel gate does not depend on the map."
        ),
    ),
)


def attended_mean(x: Tensor, logits: Tensor) -> Tensor:
    """The mean of x (B, C, H, W) weighted by the softmax of logits (B, 1, H, W) over positions: (B, C)."""
    weights = logits.flatten(1).softmax(dim=1).to(x.dtype)
    return (x.flatten(2) @ weights.unsqueeze(2)).squeeze(2)


def channel_mix(x: Tensor, weights: Tensor) -> Tensor:
    """The sum of the channels of x (B, C, H, W), each weighted: weights (B, C) -> (B, 1, H, W)."""
    return (weights.to(x.dtype).unsqueeze(1) @ x.flatten(2)).unflatten(2, x.shape[2:])


def softmax_over_map(x: Tensor) -> Tensor:
    """The softmax over the positions of each map of x (B, C, H, W)."""
    return x.flatten(2).softmax(dim=2).unflatten(2, x.shape[2:])


class PolarizedSelfAttention(Gate):
    """Polarized self-attention (Liu et al., arXiv 2107.00782).

    ``y = x * (A_ch(x) + A_sp(x))`` in parallel, or ``y = A_sp(x') * x'`` with ``x' = A_ch(x) * x`` in sequence.
    ``A_ch`` collapses the map by a softmax of one query, ``A_sp`` the channels by a softmax of a query's mean; both
    keep half the channels inside.

    Args:
        channels: C.
        layout: ``"parallel"`` (the paper's PSA_p) or ``"sequential"`` (PSA_s).
        form: ``"paper"`` follows the equations, ``"authors"`` the authors' code, which has other softmaxes and another
            W_z, not the same in both layouts; see the Card.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` below 1; an unknown ``layout`` or ``form``; a map with another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, layout: str = "parallel", form: str = "paper") -> None:
        super().__init__()
        check_choice("layout", layout, ("parallel", "sequential"))
        check_choice("form", form, ("paper", "authors"))
        self.channels = channels
        self.layout, self.form = layout, form
        width, bias = hidden_width(channels, 2), form == "paper"
        self.channel_query = nn.Conv2d(channels, 1, 1, bias=bias)
        self.channel_value = nn.Linear(channels, width, bias=bias)
        self.channel_up = nn.Sequential(*_channel_up(channels, width, layout, form))
        self.spatial_query = nn.Linear(channels, width, bias=bias)
        self.spatial_value = nn.Conv2d(channels, width, 1, bias=bias)

    def channel_map(self, x: Tensor) -> Tensor:
        """A_ch, (B, C, 1, 1)."""
        check_map(x, self.channels, "psa")
        # The weights add up to 1: the mean of the values is the value of the mean.
        value = self.channel_value(attended_mean(x, self.channel_query(x)))
        return self.channel_up(value).sigmoid()[:, :, None, None].to(x.dtype)

    def spatial_map(self, x: Tensor) -> Tensor:
        """A_sp, (B, 1, H, W)."""
        query = self.spatial_query(x.mean(dim=(2, 3)))
        if self.form == "paper":
            logits = self._mix_values(x, query.softmax(dim=1))
        elif self.layout == "parallel":
            logits = softmax_over_map(self._mix_values(x, query))
        else:
            logits = channel_mix(softmax_over_map(self.spatial_value(x)), query)
        return logits.sigmoid().to(x.dtype)

    def _mix_values(self, x: Tensor, query: Tensor) -> Tensor:
        """query . U(x) at every position; U acts on the query (B, R), which is smaller than the map."""
        layer = self.spatial_value
        mixed = channel_mix(x, query @ layer.weight.flatten(1))
        return mixed if layer.bias is None else mixed + (query @ layer.bias)[:, None, None, None]

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied in all, (B, C, H, W)."""
        channel = self.channel_map(x)
        return channel + self.spatial_map(x) if self.layout == "parallel" else channel * self.spatial_map(x * channel)

    def forward(self, x: Tensor) -> Tensor:
        if self.layout == "parallel":
            return super().forward(x)
        # The paper's order: the spatial gate reads what the channel gate gives, which needs not be made twice.
        x = x * self.channel_map(x)
        return x * self.spatial_map(x)


def _channel_up(channels: int, width: int, layout: str, form: str) -> tuple[nn.Module, ...]:
    """The layers of W_z and what normalises them, from R to C."""
    if form == "paper":
        return nn.Linear(width, channels), nn.LayerNorm(channels)
    if layout == "parallel":
        return (nn.Linear(width, channels, bias=False),)
    narrow = hidden_width(width, 4)
    return nn.Linear(width, narrow), nn.LayerNorm(narrow), nn.ReLU(inplace=True), nn.Linear(narrow, channels)
