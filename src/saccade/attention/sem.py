"""Switchable Excitation Module: three ways to weigh channels, switched softly by the image."""

# B batch, C channels, H W the map, R hidden width, K kernel over channels

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_choice, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.attention.eca import eca_kernel_size
from saccade.errors import UsageError

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
        "operators: subsets and operators of the caller's own are ours; the code has the three.",
    ),
)


OPERATORS = ("fc", "cnn", "ie")


def sem_gate(decision: Tensor, operators: Iterable[Tensor]) -> Tensor:
    """The product of the switched operators: decision (B, N), N operators (B, C) -> (B, C, 1, 1) in (0, 1)."""
    gates = [(weight[:, None] * u).sigmoid() for weight, u in zip(decision.unbind(1), operators, strict=True)]
    return math.prod(gates[1:], start=gates[0])[:, :, None, None]


class Perceptron(nn.Module):
    """``W2 relu(W1 m + b1) + b2``: m and result (B, C)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, width)
        self.fc2 = nn.Linear(width, channels)

    def forward(self, m: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(m)))


class ChannelConv(nn.Module):
    """A convolution along the channels, of the size of efficient channel attention's: m and result (B, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = eca_kernel_size(channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, m: Tensor) -> Tensor:
        return self.conv(m[:, None]).squeeze(1)


class InstanceEnhance(nn.Module):
    """``gamma * m + beta``, a line per channel: m and result (B, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.full((channels,), -1.0))

    def forward(self, m: Tensor) -> Tensor:
        return self.gamma * m + self.beta


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
        width: the hidden width itself, from 1 to C, in the place of ``C // reduction``.
        operators: which there are, in the order of the decision's outputs: ``"fc"``, ``"cnn"``, ``"ie"``, and modules
            of your own that take m, (B, C), and give u, (B, C), before any sigmoid. A plan or a comparison can hold
            names only: a mechanism with a module is for :func:`create_attention`.

    ``gamma`` starts at 0 and ``beta`` at -1, as the authors'. The convolution's kernel has the size of efficient
    channel attention, :func:`eca_kernel_size`.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``reduction`` below 1; a ``width`` not from 1 to C; ``operators`` that are empty,
            unknown or given twice; a module of yours that gives another shape than (B, C); a map with another number of
            channels.
    """

    paper = PAPER

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        width: int | None = None,
        operators: Sequence[str | nn.Module] = OPERATORS,
    ) -> None:
        super().__init__()
        width = hidden_width(channels, reduction, width)
        _check_operators(operators)
        self.channels = channels
        self.decision = nn.Linear(channels, len(operators))
        self.operators = nn.ModuleDict()
        for number, operator in enumerate(operators):
            if isinstance(operator, nn.Module):
                self.operators[f"own{number}"] = operator
            elif operator == "fc":
                self.operators["fc"] = Perceptron(channels, width)
            else:
                self.operators[operator] = ChannelConv(channels) if operator == "cnn" else InstanceEnhance(channels)

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied, (B, C, 1, 1)."""
        check_map(x, self.channels, "sem")
        squeezed = x.mean(dim=(2, 3))
        excitations = [self._excitation(name, operator(squeezed)) for name, operator in self.operators.items()]
        return sem_gate(self.decision(squeezed).sigmoid(), excitations)

    def _excitation(self, name: str, u: Tensor) -> Tensor:
        # Another shape could broadcast into a gate of the right shape with wrong values.
        if u.dim() != 2 or u.shape[1] != self.channels:
            raise UsageError(f"`operators`: {name!r} must give (B, C) = (B, {self.channels}); it gave {tuple(u.shape)}")
        return u


def _check_operators(operators: object) -> None:
    if not isinstance(operators, tuple | list) or not operators:
        raise UsageError(f"`operators` (={operators!r}) must be a tuple or list of at least one of {OPERATORS}")
    for operator in operators:
        if not isinstance(operator, nn.Module):
            check_choice("operators", operator, OPERATORS)
    if len({operator if isinstance(operator, str) else id(operator) for operator in operators}) < len(operators):
        raise UsageError(f"`operators` (={operators!r}) names one twice; give each once")
