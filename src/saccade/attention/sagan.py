"""SAGAN self-attention: every position takes a weighted sum over all positions, faded in by one learned scale."""

# B batch, C channels, H W the map, N positions asking, M positions answering

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_int, check_map, hidden_width
from saccade.attention._base import Additive
from saccade.attention._card import Paper
from saccade.attention.nonlocal_ import attend, halve

PAPER = Paper(
    title="Self-Attention Generative Adversarial Networks",
    authors="Han Zhang, Ian Goodfellow, Dimitris Metaxas, Augustus Odena",
    year=2019,
    venue="ICML",
    arxiv="1805.08318",
    kind="context",
    attends="positions",
    equations=(
        "beta_ji = softmax over i of (W_g x_j) . (W_f x_i)",
        "o_j = W_v sum over i of beta_ji W_h x_i",
        "y = gamma * o + x, gamma a number that starts at 0",
    ),
    deviations=(
        (
            "The default is the paper's form (from memory): queries, keys and values of C / 8 channels without biases, "
            "and W_v back to C. The authors' code has values of C / 2 channels, a 2 x 2 max pooling of keys and "
            "values, and spectral normalisation: value_reduction=2, pool=True, spectral_norm=True."
        ),
        "Popular PyTorch code has values of C channels, no W_v, and biases: value_reduction=None, bias=True.",
        (
            "Spectral normalisation belongs to the whole network in the paper and is off by default. As in the "
            "authors' code, it takes one power step from a stored vector, and gradients flow through that step."
        ),
        "Weights start from Xavier's uniform distribution, as in the authors' code, biases at zero.",
        "Widths are at least 1; neither paper nor code gives a minimum.",
    ),
    limits=(
        (
            "Time grows with the square of H * W. No weights are stored where PyTorch has a fused attention for the "
            "device and type."
        ),
        (
            "Fused attention has no second derivatives; for a gradient penalty, run under "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
        ),
        "pool: an exported program takes maps of at least 4 x 4; eager mode leaves an axis of one pixel whole.",
    ),
)


def sagan_map(queries: Tensor, keys: Tensor) -> Tensor:
    """The weights themselves: queries (B, D, H, W), keys (B, D, h, w) -> (B, N, M), a row for every query."""
    return (queries.flatten(2).transpose(1, 2) @ keys.flatten(2)).softmax(dim=2)


def spectrally_normalised(weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix divided by its largest singular value as one power step from u finds it, and the u of the next step.

    weight (O, I, 1, 1), u (O,) near the left singular vector.
    """
    # By products and sums, which autocast leaves in full precision, where it would round a matrix product.
    matrix = weight.flatten(1)
    v = F.normalize((matrix * u[:, None]).sum(dim=0), dim=0)
    image = (matrix * v).sum(dim=1)
    u = F.normalize(image, dim=0)
    return weight / (image * u).sum(), u


class SpectralConv2d(nn.Conv2d):
    """A 1 x 1 convolution by its spectrally normalised weight; train mode keeps the power iteration's vector."""

    u: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)
        self.register_buffer("u", torch.randn(out_channels))

    def forward(self, input: Tensor) -> Tensor:
        weight, u = spectrally_normalised(self.weight, self.u)
        if self.training:
            # Another tensor: a compiled backward pass would read what was written into this one.
            self.u = u.detach()
        return F.conv2d(input, weight, self.bias)


class SAGANAttention(Additive):
    """SAGAN self-attention (Zhang et al., ICML 2019, arXiv 1805.08318, equations 1 to 3).

    ``y = x + gamma * W_v sum_i softmax_i(q_j . k_i) v_i``: the logits are not scaled. The paper's g is our ``query``,
    its f ``key``, its h ``value``, its v ``output``, its C / C-bar our ``reduction``; gamma the same.

    Args:
        channels: C.
        reduction: queries and keys have ``max(1, C // reduction)`` channels, the paper's C / 8.
        value_reduction: values have ``max(1, C // value_reduction)`` channels and a convolution back to C: 8 in the
            paper, 2 in the authors' code; None: C channels, and no convolution back.
        pool: 2 x 2 max pooling of keys and values, as in the authors' code.
        bias: biases in all 1 x 1 convolutions.
        spectral_norm: spectral normalisation of all 1 x 1 convolutions, as in the authors' code.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels``, ``reduction`` or ``value_reduction`` below 1; a switch that is not a bool; a map with
            another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 8,
        value_reduction: int | None = 8,
        pool: bool = False,
        bias: bool = False,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        width = hidden_width(channels, reduction)
        for name, value in {"pool": pool, "bias": bias, "spectral_norm": spectral_norm}.items():
            check_bool(name, value)
        if value_reduction is not None:
            check_int("value_reduction", value_reduction)
        self.channels = channels
        self.pool = pool
        values = channels if value_reduction is None else hidden_width(channels, value_reduction)
        self.query = _conv1x1(channels, width, bias, spectral_norm)
        self.key = _conv1x1(channels, width, bias, spectral_norm)
        self.value = _conv1x1(channels, values, bias, spectral_norm)
        self.output = nn.Identity() if value_reduction is None else _conv1x1(values, channels, bias, spectral_norm)
        self.gamma = nn.Parameter(torch.zeros(1))

    @property
    def starts_as_identity(self) -> bool:
        return True

    def attention_map(self, x: Tensor) -> Tensor:
        """The weights of all positions for every position, (B, N, M): a row sums to 1. ``term`` does not store them."""
        check_map(x, self.channels, "sagan")
        keys = self.key(x)
        return sagan_map(self.query(x), halve(keys) if self.pool else keys)

    def term(self, x: Tensor) -> Tensor:
        """What is added to x, (B, C, H, W)."""
        check_map(x, self.channels, "sagan")
        keys, values = self.key(x), self.value(x)
        if self.pool:
            keys, values = halve(keys), halve(values)
        return self.gamma * self.output(attend(self.query(x), keys, values, scale=1.0))


def _conv1x1(in_channels: int, out_channels: int, bias: bool, spectral_norm: bool) -> nn.Conv2d:
    if spectral_norm:
        conv = SpectralConv2d(in_channels, out_channels, bias=bias)
    else:
        conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
