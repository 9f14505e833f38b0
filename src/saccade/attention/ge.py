"""Gather-Excite: weigh each channel by what its surroundings hold, near or far, with or without parameters."""

# B batch, C channels, H W the map, R hidden width, e extent

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_choice, check_int, check_map, hidden_width
from saccade.attention._base import Gate
from saccade.attention._card import Paper
from saccade.attention._norm import BatchNorm2d
from saccade.attention._sampling import pair
from saccade.errors import UsageError

PAPER = Paper(
    title="Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks",
    authors="Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Andrea Vedaldi",
    year=2018,
    venue="NeurIPS",
    arxiv="1810.12348",
    kind="gate",
    attends="channel",
    equations=(
        'g = gather(x): a mean (gather="mean") or depthwise convolutions with BatchNorm (gather="depthwise")',
        'g = W2 relu(W1 relu(g) + b1) + b2, only with excite="mlp"; the inner relu only after convolutions',
        "y = sigmoid(nearest(g)) * x, nearest: the nearest value of g at every position",
    ),
    deviations=(
        (
            "The paper's theta-minus is the default; its theta is gather='depthwise', its theta-plus also excite='mlp' "
            "(their extents 2, 4, 8 are from memory and as in timm). gather='mean' with excite='mlp', timm's, is not "
            "the paper's: with the global extent it is squeeze-and-excitation."
        ),
        (
            "The authors' published global theta-plus has a ReLU between the BatchNorm of the gather and the layers of "
            "the excite; timm has none. mlp_relu chooses, at every extent."
        ),
        (
            "timm's depthwise gather of global extent pads the map, so that it gathers to the map's own size; ours, as "
            "the authors' network, gathers to 1 x 1."
        ),
        "A mean of extent e is over 2e - 1 positions each way, those inside the map, at every e-th position.",
        "R = max(1, C // reduction); the paper gives no minimum. Convolutions start as PyTorch's.",
        "Where a channel has a single value in train mode (batch 1, one position), BatchNorm uses running statistics.",
    ),
    limits=(
        "gather='depthwise' with the global extent has one weight per position: it works on maps of feature_size only.",
        (
            "Where the extent does not divide the map, the nearest value follows the sizes alone: position i of n "
            "reads value floor(i * m / n) of m."
        ),
        (
            "torch.export with dynamic sizes asks for maps larger than the extent on both sides, as it does for any "
            "stride: give the dimensions min=extent + 1. The default, of global extent, exports for every size."
        ),
    ),
)


def mean_gather(x: Tensor, extent: int | None) -> Tensor:
    """The mean over the map (B, C, 1, 1), or around every e-th position (B, C, ceil(H / e), ceil(W / e))."""
    if extent is None:
        return x.mean(dim=(2, 3), keepdim=True)
    return F.avg_pool2d(x, 2 * extent - 1, extent, padding=extent - 1, count_include_pad=False)


def depthwise_gather(channels: int, extent: int | None, feature_size: tuple[int, int] | None) -> nn.Sequential:
    """One convolution as large as the map, or for extent e log2(e) of them 3 x 3 with stride 2; a norm after each."""
    if extent is None:
        if feature_size is None:
            raise UsageError(
                "`feature_size` (=None) must be the size (H, W) of the map for gather='depthwise' with extent=None, "
                "which has a weight for every position; give it, or give `extent`"
            )
        conv = nn.Conv2d(channels, channels, feature_size, groups=channels, bias=False)
        return nn.Sequential(conv, BatchNorm2d(channels))
    layers: list[nn.Module] = []
    for step in range(extent.bit_length() - 1):
        layers += [nn.ReLU(inplace=True)] if step else []
        layers += [nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)]
        layers += [BatchNorm2d(channels)]
    return nn.Sequential(*layers)


class GatherExcite(Gate):
    """Gather-Excite (Hu et al., NeurIPS 2018, arXiv 1810.12348).

    ``y = x * sigmoid(nearest(excite(gather(x))))``: the gather makes one value of each channel's surroundings, the
    excite mixes channels, and the nearest of the values weighs each position. The paper's xi_G is our ``gather``, its
    xi_E our ``excite`` with what follows it, its e our ``extent``. The default is its GE-theta-minus, which has no
    parameters.

    Args:
        channels: C.
        gather: ``"mean"``, or ``"depthwise"`` convolutions without bias, each with a BatchNorm.
        excite: ``"none"``, or ``"mlp"``: two 1 x 1 convolutions C -> R -> C with biases.
        extent: e, from 2, for convolutions a power of two; ``None`` gathers the whole map.
        reduction: of the mlp, 16; R is ``max(1, C // reduction)``.
        width: the hidden width itself, from 1 to C, in the place of ``C // reduction``.
        feature_size: H or (H, W) of the map, for a depthwise gather of the whole map, which needs it; else not used.
        mlp_relu: a ReLU between a depthwise gather and the mlp, as the authors' published network has it.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels``, ``reduction`` or ``feature_size`` below 1; a ``width`` not from 1 to C; an unknown
            ``gather`` or ``excite``; an ``extent`` below 2, for convolutions no power of two; a ``mlp_relu`` that is
            not a bool; a depthwise gather of the whole map without ``feature_size``, or on a map of another size; a map
            with another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        channels: int,
        *,
        gather: str = "mean",
        excite: str = "none",
        extent: int | None = None,
        reduction: int = 16,
        width: int | None = None,
        feature_size: int | tuple[int, int] | None = None,
        mlp_relu: bool = True,
    ) -> None:
        super().__init__()
        width = hidden_width(channels, reduction, width)
        check_choice("gather", gather, ("mean", "depthwise"))
        check_choice("excite", excite, ("none", "mlp"))
        check_bool("mlp_relu", mlp_relu)
        _check_extent(extent, gather)
        size = None if feature_size is None else pair("feature_size", feature_size)
        self.channels = channels
        self.extent = extent
        self.gather = depthwise_gather(channels, extent, size) if gather == "depthwise" else None
        self.feature_size = size if self.gather is not None and extent is None else None
        self.relu = self.gather is not None and mlp_relu
        self.fc1 = nn.Conv2d(channels, width, 1) if excite == "mlp" else None
        self.fc2 = nn.Conv2d(width, channels, 1) if excite == "mlp" else None

    @classmethod
    def sized(cls, in_size: tuple[int, int], out_size: tuple[int, int], options: dict[str, Any]) -> dict[str, Any]:
        """The size of the map where the depthwise gather needs it, unless the caller gave one."""
        fixed = options.get("gather") == "depthwise" and options.get("extent") is None
        return {"feature_size": out_size} if fixed and "feature_size" not in options else {}

    def gathered(self, x: Tensor) -> Tensor:
        """What the surroundings hold: one value per channel, or one for every e-th position."""
        if self.gather is None:
            return mean_gather(x, self.extent)
        if self.feature_size is not None and x.shape[-2:] != self.feature_size:
            raise UsageError(
                f"ge was built for maps of {self.feature_size} (`feature_size`): its depthwise gather has a weight for "
                f"every position; got {tuple(x.shape[-2:])}; build it with that size, or with `extent`"
            )
        return self.gather(x)

    def excited(self, gathered: Tensor) -> Tensor:
        """The weights in (0, 1) of what was gathered, in the same shape."""
        if self.fc1 is not None and self.fc2 is not None:
            gathered = F.relu(gathered) if self.relu else gathered
            gathered = self.fc2(F.relu(self.fc1(gathered)))
        return gathered.sigmoid()

    def gate(self, x: Tensor) -> Tensor:
        """The map by which x is multiplied: (B, C, 1, 1) for the global extent, else (B, C, H, W)."""
        check_map(x, self.channels, "ge")
        weights = self.excited(self.gathered(x))
        return weights if self.extent is None else F.interpolate(weights, size=x.shape[-2:], mode="nearest")


def _check_extent(extent: int | None, gather: str) -> None:
    if extent is None:
        return
    check_int("extent", extent, at_least=2)
    if gather == "depthwise" and extent & (extent - 1):
        raise UsageError(f"`extent` (={extent}) must be a power of two for gather='depthwise', which halves the map")
