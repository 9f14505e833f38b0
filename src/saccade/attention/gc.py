"""Global context: one weighted mean of the whole map, transformed and added to every position."""

# B batch, C channels, H W the map, R hidden width

from __future__ import annotations

from torch import Tensor, nn

from saccade._checks import check_choice, check_map, hidden_width
from saccade.attention._base import Additive
from saccade.attention._card import Paper

PAPER = Paper(
    title="GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
    authors="Yue Cao, Jiarui Xu, Stephen Lin, Fangyun Wei, Han Hu",
    year=2019,
    venue="ICCV Workshops",
    arxiv="1904.11492",
    kind="context",
    attends="channel+spatial",
    equations=(
        "c = sum over j of softmax_j(W_k x_j) x_j",
        "t(c) = W_v2 relu(LN(W_v1 c))",
        "y = x + t(c) at every position",
        "fuse with mul: y = x * sigmoid(t'(c)), and + t(c) if add too; t' has weights of its own",
    ),
    deviations=(
        "R = max(1, C // reduction); the authors' code has int(C * ratio) without a minimum.",
        "All layers have biases, as in the authors' code; the equations write none.",
        (
            "The last layers start at zero and W_k from Kaiming's normal distribution over its inputs, as in the "
            "authors' code; so fuse='add' starts as the identity, and a product starts at one half of x."
        ),
    ),
    limits=(
        "With R = 1 (C below 2 * reduction) LayerNorm leaves nothing of the context: what is added is a constant.",
    ),
)


def global_context(x: Tensor, logits: Tensor) -> Tensor:
    """The mean of x weighted by a softmax over positions: x (B, C, H, W), logits (B, 1, H, W) -> (B, C)."""
    weights = logits.flatten(2).softmax(dim=2)
    return (x.flatten(2) @ weights.to(x.dtype).transpose(1, 2)).squeeze(2)


class GlobalContext(Additive):
    """Global context block (Cao et al., ICCV Workshops 2019, arXiv 1904.11492).

    ``y = x + W_v2 relu(LN(W_v1 c))`` with ``c = sum_j softmax_j(W_k x_j) x_j``. The paper's z is our y, its W_k
    ``mask``, its r our ``reduction``; W_v1 and W_v2 are the first and last layer of ``fuse["add"]``.

    Args:
        channels: C.
        reduction: r, 16; the hidden width is ``max(1, C // reduction)``. The authors' code gives ``ratio = 1 / r``.
        width: the hidden width itself, from 1 to C, in the place of ``C // reduction``.
        pooling: ``"attention"``, or ``"mean"`` for the plain mean over positions.
        fuse: ``"add"``, ``"mul"`` (a sigmoid gate for each channel) or ``"add+mul"`` (the gate first).

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` or ``reduction`` below 1; a ``width`` not from 1 to C; an unknown ``pooling`` or
            ``fuse``; a map with another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        width: int | None = None,
        pooling: str = "attention",
        fuse: str = "add",
    ) -> None:
        super().__init__()
        width = hidden_width(channels, reduction, width)
        check_choice("pooling", pooling, ("attention", "mean"))
        check_choice("fuse", fuse, ("add", "mul", "add+mul"))
        self.channels = channels
        self.mask = nn.Conv2d(channels, 1, 1) if pooling == "attention" else None
        self.fuse = nn.ModuleDict({way: _transform(channels, width) for way in fuse.split("+")})
        if self.mask is not None:
            weight, bias = self.mask.parameters()
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
            nn.init.zeros_(bias)

    @property
    def starts_as_identity(self) -> bool:
        return "mul" not in self.fuse

    def context(self, x: Tensor) -> Tensor:
        """c, (B, C)."""
        check_map(x, self.channels, "gc")
        return x.mean(dim=(2, 3)) if self.mask is None else global_context(x, self.mask(x))

    def term(self, x: Tensor) -> Tensor:
        """What is added to x: (B, C, 1, 1), or with a product in ``fuse`` (B, C, H, W)."""
        context = self.context(x)
        if "mul" not in self.fuse:
            return self._transformed("add", context)
        return self._added(x * (self._transformed("mul", context).sigmoid().to(x.dtype) - 1), context)

    def forward(self, x: Tensor) -> Tensor:
        if "mul" not in self.fuse:
            return super().forward(x)
        # The product itself: x + x * (factor - 1) would lose the digits of a small factor.
        context = self.context(x)
        return self._added(x * self._transformed("mul", context).sigmoid().to(x.dtype), context)

    def _added(self, x: Tensor, context: Tensor) -> Tensor:
        return x + self._transformed("add", context).to(x.dtype) if "add" in self.fuse else x

    def _transformed(self, way: str, context: Tensor) -> Tensor:
        return self.fuse[way](context)[:, :, None, None]


def _transform(channels: int, width: int) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Linear(channels, width), nn.LayerNorm(width), nn.ReLU(inplace=True), nn.Linear(width, channels)
    )
    for parameter in layers[-1].parameters():
        nn.init.zeros_(parameter)
    return layers
