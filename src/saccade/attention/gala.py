"""Global-and-local attention: what is there and where it is, added and multiplied, weigh every value of the map."""

# B batch, C channels, H W the map, R hidden width

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_choice, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper

PAPER = Paper(
    title="Learning what and where to attend",
    authors="Drew Linsley, Dan Shiebler, Sven Eberhardt, Thomas Serre",
    year=2019,
    venue="ICLR",
    arxiv="1805.08819",
    kind="gate",
    attends="channel+spatial",
    equations=(
        "s_g = W2 relu(W1 m), m = mean of x over H, W: one number per channel",
        "s_l = conv1x1(relu(conv1x1(x))), C -> R -> 1: one number per position",
        "s = tanh(a * (s_g + s_l) + m * (s_g * s_l)), a and m one number per channel",
        "y = s * x",
    ),
    deviations=(
        "All four layers have biases, as in the authors' code (serre-lab/gala_tpu); the equations write none.",
        (
            'form="code" is what that code does with its default settings, which differ from the equations: a 5 x 5 '
            "convolution R -> R with ReLU between the two 1 x 1 convolutions, a ReLU on s_g, a sigmoid in the place of "
            "tanh. Its option of BatchNorm on s_l and its loss on maps of human attention are left out."
        ),
        (
            "a and m start from N(0, 1) cut at 2, our reading of the code's initialiser for them; the layers start as "
            "PyTorch's do, not as the code's."
        ),
        "R = max(1, C // reduction); the code has no minimum. Its r is 4; that the paper's is, too, is from memory.",
    ),
    limits=(
        (
            "The gate starts with either sign, and near 0 where s_g and s_l are: in the paper's form a fresh network "
            "starts with damped branches."
        ),
    ),
)


def gala_logits(s_g: Tensor, s_l: Tensor, a: Tensor, m: Tensor) -> Tensor:
    """``a (s_g + s_l) + m s_g s_l``: s_g (B, C, 1, 1), s_l (B, 1, H, W), a and m (C,) -> (B, C, H, W)."""
    a, m = a[:, None, None], m[:, None, None]
    # As a line in s_l, all that is worked out at every value of the map is one product and one sum.
    return (a + m * s_g) * s_l + a * s_g


class GlobalAndLocalAttention(Gate):
    """Global-and-local attention, GALA (Linsley, Shiebler, Eberhardt, Serre, ICLR 2019, arXiv 1805.08819).

    ``y = x * tanh(a (s_g + s_l) + m s_g s_l)``: s_g is a perceptron C -> R -> C of the channels' means, s_l two 1 x 1
    convolutions C -> R -> 1 at every position. The equations' W1, W2 are our ``fc1``, ``fc2``, the shrink factor r our
    ``reduction``, a and m parameters of that name.

    Args:
        channels: C.
        reduction: r, 4; the hidden width of both branches is ``max(1, C // reduction)``.
        width: the hidden width itself, from 1 to C, in the place of ``C // reduction``.
        form: ``"paper"`` as above. ``"code"`` as the authors' code does with its defaults: a sigmoid in the place of
            tanh, a ReLU on s_g, and a 5 x 5 convolution R -> R with ReLU between the two 1 x 1 convolutions of s_l.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``reduction`` below 1; a ``width`` not from 1 to C; an unknown ``form``; a map with
            another number of channels.
    """

    paper = PAPER

    def __init__(self, channels: int, *, reduction: int = 4, width: int | None = None, form: str = "paper") -> None:
        super().__init__()
        check_choice("form", form, ("paper", "code"))
        width = hidden_width(channels, reduction, width)
        self.channels, self.form = channels, form
        self.fc1 = nn.Linear(channels, width)
        self.fc2 = nn.Linear(width, channels)
        between = (nn.Conv2d(width, width, 5, padding=2), nn.ReLU(inplace=True)) if form == "code" else ()
        self.local = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.ReLU(inplace=True), *between, nn.Conv2d(width, 1, 1)
        )
        self.a = nn.Parameter(nn.init.trunc_normal_(torch.empty(channels)))
        self.m = nn.Parameter(nn.init.trunc_normal_(torch.empty(channels)))

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied, (B, C, H, W): in (-1, 1), with ``form="code"`` in (0, 1)."""
        check_map(x, self.channels, "gala")
        s_g = self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3)))))[:, :, None, None]
        if self.form == "paper":
            return gala_logits(s_g, self.local(x), self.a, self.m).tanh()
        return gala_logits(F.relu(s_g), self.local(x), self.a, self.m).sigmoid()
