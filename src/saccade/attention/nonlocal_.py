"""Non-local block: every position takes a weighted sum over all positions of the map."""

# B batch, C channels, H W the map, R embedding width, N positions asking, M positions answering

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_choice, check_map, check_number, hidden_width
from saccade.attention._base import Additive
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d
from saccade.errors import UsageError

PAIRWISE = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")

PAPER = Paper(
    title="Non-local Neural Networks",
    authors="Xiaolong Wang, Ross Girshick, Abhinav Gupta, Kaiming He",
    year=2018,
    venue="CVPR",
    arxiv="1711.07971",
    kind="context",
    attends="positions",
    equations=(
        "r_i = sum over j of f(x_i, x_j) g(x_j) / C(x)",
        "embedded_gaussian: f = exp(theta(x_i) . phi(x_j)), C the sum of f over j, which makes a softmax",
        "gaussian: f = exp(x_i . x_j), C the sum of f over j",
        "dot_product: f = theta(x_i) . phi(x_j), C the number of positions j",
        "concatenation: f = relu(w . [theta(x_i), phi(x_j)]), C the number of positions j",
        "y = x + BN(W r)",
    ),
    deviations=(
        "The authors' code multiplies the logits by R ** -0.5; the paper's equation does not. scale takes the number.",
        (
            "Subsampling is off by default. subsample=True pools phi(x) and g(x), as the paper has it (from memory); "
            "the authors' code pools the map before phi and g by default: subsample_input=True."
        ),
        "theta, phi, g and W have biases, as in the authors' code; the equations write none.",
        "Convolutions start from N(0, 0.01^2), biases and the weights of BatchNorm at zero, as in the authors' code.",
        "norm=False has no BatchNorm and starts W at zero, as in a popular implementation.",
        "R = max(1, C // reduction); the paper gives no minimum.",
        "Where a channel has a single value in train mode (batch 1 on a 1 x 1 map), BatchNorm uses running statistics.",
    ),
    limits=(
        (
            "Time grows with the square of H * W, except for dot_product, whose time and memory grow with H * W and "
            "R^2. The Gaussian forms store no weights where PyTorch has a fused attention for the device and type."
        ),
        "concatenation stores one weight for every pair of positions.",
        (
            "Fused attention has no second derivatives; for a gradient penalty, run under "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
        ),
        "subsample: an exported program takes maps of at least 4 x 4; eager mode leaves an axis of one pixel whole.",
    ),
)


def attend(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Softmax attention: queries (B, D, H, W), keys (B, D, h, w), values (B, E, h, w) -> (B, E, H, W)."""
    # Fused attention takes equal depths and contiguous rows only, else PyTorch would store all weights. A row of one
    # value keeps whatever stride it has, so there are two.
    depth = max(queries.shape[1], values.shape[1], 2)
    q, k, v = (_rows(part, depth) for part in (queries, keys, values))
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out[:, 0, :, : values.shape[1]].transpose(1, 2).unflatten(2, queries.shape[-2:])


def _rows(x: Tensor, depth: int) -> Tensor:
    """A map as rows of pixels for one head: (B, D, H, W) -> (B, 1, HW, depth), with zeros behind the first D."""
    rows = x.flatten(2).transpose(1, 2)
    if depth > x.shape[1]:
        rows = F.pad(rows, (0, depth - x.shape[1]))
    return rows.contiguous()[:, None]


def dot_product_response(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The mean over j of (q_i . k_j) v_j: maps as for :func:`attend`. Keys meet values first: linear in positions."""
    keys, values = keys.flatten(2), values.flatten(2)
    # Divided before the sum, which over a large map leaves the range of float16.
    mixing = values @ (keys / keys.shape[2]).transpose(1, 2)
    return (mixing @ queries.flatten(2)).unflatten(2, queries.shape[-2:])


def concatenation_response(queries: Tensor, keys: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """The mean over j of relu(w . [q_i, k_j]) v_j: maps as for :func:`attend`, weight (1, 2 D, 1, 1)."""
    # The product with a concatenation is the sum of the products with its halves.
    w_queries, w_keys = weight.chunk(2, dim=1)
    asked, answered = F.conv2d(queries, w_queries).flatten(2), F.conv2d(keys, w_keys).flatten(2)
    pairs = F.relu(answered.transpose(1, 2) + asked)  # (B, M, N)
    return (values.flatten(2) @ (pairs / pairs.shape[1])).unflatten(2, queries.shape[-2:])


def halve(x: Tensor) -> Tensor:
    """2 x 2 max pooling with stride 2; an axis of one pixel stays whole."""
    return F.max_pool2d(x, (min(2, x.shape[2]), min(2, x.shape[3])))


class NonLocal(Additive):
    """Non-local block (Wang et al., CVPR 2018, arXiv 1711.07971, equations 1 to 6).

    ``y = x + BN(W r)`` with ``r_i = sum_j f(x_i, x_j) g(x_j) / C(x)``, by default ``softmax_j(theta(x_i) . phi(x_j))``
    in the place of ``f / C``. The paper's y_i is our r_i, its z our y, its W_z our ``output``; theta, phi, g the same.

    Args:
        channels: C.
        reduction: C / R, 2 in the paper; the width of the embeddings is ``max(1, C // reduction)``.
        width: the hidden width itself, from 1 to C, in the place of ``C // reduction``.
        pairwise: the paper's f: ``"embedded_gaussian"``, ``"gaussian"`` (without embeddings), ``"dot_product"`` or
            ``"concatenation"``.
        scale: a factor of the logits of the two Gaussian forms; the authors' code has ``R ** -0.5``.
        subsample: 2 x 2 max pooling of ``phi(x)`` and ``g(x)``, which leaves a quarter of the pairs.
        subsample_input: with ``subsample``, pool x before phi and g instead, as the authors' code does.
        norm: BatchNorm behind W, its weights zero at the start; without it W itself starts at zero.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``reduction`` below 1; a ``width`` not from 1 to C; an unknown ``pairwise``; a
            ``scale`` that is negative or not 1 without a softmax; ``subsample_input`` without ``subsample``; a map with
            another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 2,
        width: int | None = None,
        pairwise: str = "embedded_gaussian",
        scale: float = 1.0,
        subsample: bool = False,
        subsample_input: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        width = hidden_width(channels, reduction, width)
        check_choice("pairwise", pairwise, PAIRWISE)
        check_number("scale", scale, low=0, high=math.inf)
        for name, value in {"subsample": subsample, "subsample_input": subsample_input, "norm": norm}.items():
            check_bool(name, value)
        if scale != 1 and pairwise not in ("embedded_gaussian", "gaussian"):
            raise UsageError(
                f"`scale` (={scale}) is of the forms with a softmax; leave it out for pairwise={pairwise!r}"
            )
        if subsample_input and not subsample:
            raise UsageError("`subsample_input` (=True) says where to subsample; give subsample=True with it")
        self.channels, self.pairwise, self.scale = channels, pairwise, scale
        self.subsample, self.subsample_input = subsample, subsample_input
        self.theta, self.phi = (
            nn.Identity() if pairwise == "gaussian" else nn.Conv2d(channels, width, 1) for _ in range(2)
        )
        self.g = nn.Conv2d(channels, width, 1)
        self.pair = nn.Conv2d(2 * width, 1, 1, bias=False) if pairwise == "concatenation" else None
        self.output = nn.Conv2d(width, channels, 1)
        self.norm = BatchNorm2d(channels) if norm else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.norm.weight if isinstance(self.norm, nn.BatchNorm2d) else self.output.weight)

    @property
    def starts_as_identity(self) -> bool:
        return True

    def term(self, x: Tensor) -> Tensor:
        """What is added to x, (B, C, H, W)."""
        check_map(x, self.channels, "nonlocal")
        source = halve(x) if self.subsample_input else x
        keys, values = self.phi(source), self.g(source)
        if self.subsample and not self.subsample_input:
            keys, values = halve(keys), halve(values)
        return self.norm(self.output(self._respond(self.theta(x), keys, values)))

    def _respond(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if self.pair is not None:
            return concatenation_response(queries, keys, values, self.pair.weight)
        if self.pairwise == "dot_product":
            return dot_product_response(queries, keys, values)
        return attend(queries, keys, values, self.scale)
