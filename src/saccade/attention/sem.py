"""Switchable Excitation Module: three ways to weigh channels, switched softly by the image."""

# B batch, C channels, H W the map, R hidden width, K kernel over channels

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper

PAPER = Paper(
    title="SEM: Switchable Excitation Module for Self-attention Mechanism",
    authors="Shanshan Zhong, Wushao Wen, Jinghui Qin",
    year=2022,
    venue="arXiv",
    arxiv="2209.05680",
    kind="gate",
    attends="channel",
    equations=(
        "m = mean of x over H, W",
        "w = sigmoid(W_d m + b_d), one weight per operator",
        "u_fc = W2 relu(W1 m + b1) + b2",
        "u_cnn = conv1d over the channels of m",
        "u_ie = gamma * m + beta",
        "v = sigmoid(w_fc u_fc) * sigmoid(w_cnn u_cnn) * sigmoid(w_ie u_ie)",
        "y = v * x",
    ),
    deviations=(
        (
            "As the authors' code. Of the decision, a description of the method in prose has a layer from N to C; the "
            "code's is from C to N."
        ),
        "R = max(1, C // reduction); the code rounds C / 16 without a minimum.",
    ),
)


def eca_kernel_size(channels: int) -> int:
    """The odd kernel size of efficient channel attention for C channels: |(log2 C + 1) / 2|, made odd upwards."""
    size = int(abs((math.log2(channels) + 1) / 2))
    return size if size % 2 else size + 1


def sem_gate(decision: Tensor, operators: tuple[Tensor, ...]) -> Tensor:
    """The product of the switched operators: decision (B, N), N operators (B, C) -> (B, C, 1, 1) in (0, 1)."""
    gates = [(weight[:, None] * u).sigmoid() for weight, u in zip(decision.unbind(1), operators, strict=True)]
    return math.prod(gates[1:], start=gates[0])[:, :, None, None]


class SwitchableExcitation(Gate):
    """Switchable excitation (Zhong, Wen, Qin, arXiv 2209.05680, and the authors' ``sem.py``).

    With ``m`` the mean of x over the map and ``w = sigmoid(W_d m + b_d)`` one weight per operator::

        y = x * sigmoid(w_fc u_fc) * sigmoid(w_cnn u_cnn) * sigmoid(w_ie u_ie)
        u_fc = W2 relu(W1 m + b1) + b2     u_cnn = conv1d(m)     u_ie = gamma * m + beta

    Each operator is scaled by its weight before its own sigmoid. Two of the three operators start near zero, so the
    gate starts near 0.5 * 0.5 * sigmoid(-w_ie), about 0.09: a fresh network starts with strongly damped branches.

    Args:
        channels: C.
        reduction: of the fully connected operator, 16; its width is ``max(1, C // reduction)``.

    ``gamma`` starts at 0 and ``beta`` at -1, as the authors'. The convolution's kernel has the size of efficient
    channel attention, :func:`eca_kernel_size`.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``reduction`` below 1; a map with another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.channels = channels
        width = hidden_width(channels, reduction)
        kernel = eca_kernel_size(channels)
        self.decision = nn.Linear(channels, 3)
        self.fc1 = nn.Linear(channels, width)
        self.fc2 = nn.Linear(width, channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.full((channels,), -1.0))

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied, (B, C, 1, 1)."""
        check_map(x, self.channels, "sem")
        squeezed = x.mean(dim=(2, 3))
        fc = self.fc2(F.relu(self.fc1(squeezed)))
        cnn = self.conv(squeezed[:, None]).squeeze(1)
        ie = self.gamma * squeezed + self.beta
        return sem_gate(self.decision(squeezed).sigmoid(), (fc, cnn, ie))
