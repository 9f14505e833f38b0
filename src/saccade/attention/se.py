"""Squeeze-and-Excitation: weigh each channel by what the whole map holds."""

# B batch, C channels, H W the map, R hidden width

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper

PAPER = Paper(
    title="Squeeze-and-Excitation Networks",
    authors="Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu",
    year=2018,
    venue="CVPR",
    arxiv="1709.01507",
    kind="gate",
    attends="channel",
    equations=("z = mean of x over H, W", "s = sigmoid(W2 relu(W1 z + b1) + b2)", "y = s * x"),
    deviations=(
        "R = max(1, C // reduction); the paper gives no minimum.",
        (
            "Biases: the paper's equations write none, which is the default; the authors' published ResNets have them: "
            "bias=True."
        ),
    ),
)


def se_gate(x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
    """The weight of every channel: x (B, C, H, W), w1 (R, C), w2 (C, R) -> (B, C, 1, 1) in (0, 1)."""
    squeezed = x.mean(dim=(2, 3))
    return F.linear(F.relu(F.linear(squeezed, w1, b1)), w2, b2).sigmoid()[:, :, None, None]


class SqueezeExcitation(Gate):
    """Squeeze-and-Excitation (Hu et al., CVPR 2018, arXiv 1709.01507, equations 2 to 4).

    ``y = x * sigmoid(W2 relu(W1 mean(x) + b1) + b2)``, the mean over the map. The paper's z is the mean, its
    F_ex(z, W) our gate, its r our ``reduction``.

    Args:
        channels: C.
        reduction: the paper's r, 16; the hidden width is ``max(1, C // reduction)``.
        width: the hidden width itself, from 1 to C, in the place of ``C // reduction``.
        bias: whether the two layers have biases, as in the authors' published models; the equations write none.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``reduction`` below 1; a ``width`` not from 1 to C; a ``bias`` that is no bool; a
            map with another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, reduction: int = 16, width: int | None = None, bias: bool = False) -> None:
        super().__init__()
        check_bool("bias", bias)
        self.channels = channels
        width = hidden_width(channels, reduction, width)
        self.fc1 = nn.Linear(channels, width, bias=bias)
        self.fc2 = nn.Linear(width, channels, bias=bias)

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied, (B, C, 1, 1)."""
        check_map(x, self.channels, "se")
        return se_gate(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
