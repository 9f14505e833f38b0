"""Double attention: two implementations of the context alone, and one that normalises over the batch."""

from __future__ import annotations

from torch import Tensor, nn

from parity.adapted import Adapted, Fault, Slot, Through
from saccade.attention.a2 import DoubleAttention


def of_nguyenvo09(*, in_channels: int, c_m: int, c_n: int, reconstruct: bool = True) -> Adapted:
    module = DoubleAttention(in_channels, features=c_m, maps=c_n)
    names = _projections(c_m, c_n)
    if reconstruct:
        names |= {f"conv_reconstruct.{kind}": f"module.output.{kind}" for kind in ("weight", "bias")}
    else:
        module.output = nn.Identity()
    return Adapted(Through(module, lambda module, x: module.term(x)), names)


def of_gjylt(*, in_channels: int, c_m: int, c_n: int, k: int = 1) -> Adapted:
    """The features as distributed, without a layer back to C; k consecutive samples are the frames of one clip."""
    module = DoubleAttention(in_channels, features=c_m, maps=c_n)
    module.output = nn.Identity()

    def run(module: DoubleAttention, x: Tensor) -> Tensor:
        # All layers are 1 x 1, so that frames one below the other are one map.
        clips = x.unflatten(0, (-1, k)).transpose(1, 2).flatten(2, 3)
        return module.term(clips).unflatten(2, (k, -1)).transpose(1, 2).flatten(0, 1)

    return Adapted(Through(module, run), _projections(c_m, c_n))


def _projections(c_m: int, c_n: int) -> dict[str, Slot]:
    """Three layers of the reference for one of ours."""
    rows = {"convA": (0, c_m), "convB": (c_m, c_m + c_n), "convV": (c_m + c_n, c_m + 2 * c_n)}
    return {
        f"{layer}.{kind}": Slot(f"module.project.{kind}", rows=place)
        for layer, place in rows.items()
        for kind in ("weight", "bias")
    }


def normalised_over_the_batch(through: Through, x: Tensor) -> Tensor:
    """Our term with both attentions normalised over the samples of the batch."""
    module = through.module
    features, gather, distribute = (part.flatten(2) for part in module.project(x).split(module.widths, dim=1))
    context = features @ gather.softmax(dim=0).transpose(1, 2) @ distribute.softmax(dim=0)
    return module.output(context.unflatten(2, x.shape[-2:]))


XMU = ("a2", "xmu-xiaoma666/External-Attention-pytorch", "model/attention/A2Atttention.py")

ADAPTERS = {
    ("a2", "nguyenvo09/Double-Attention-Network", "double_attention_layer.py"): of_nguyenvo09,
    ("a2", "gjylt/DoubleAttentionNet", "DoubleAttentionLayer.py"): of_gjylt,
    XMU: of_nguyenvo09,
}
FAULTS = {
    XMU: Fault(
        # The file's notes say "over the maps", but for three axes PyTorch's softmax without `dim` takes the first.
        "both attentions are normalised over the batch instead of over positions and over maps",
        # The distance on the stored file is 125, on values of about that size.
        distance=1.0,
        reproduce=normalised_over_the_batch,
    ),
}
