"""Non-local block: a PyTorch implementation with all four pairwise functions, and timm's."""

from __future__ import annotations

from collections.abc import Callable

from parity.adapted import Adapted, layer_names, multiple_of_8
from saccade.attention.nonlocal_ import NonLocal


def of_alexhex7(pairwise: str) -> Callable[..., Adapted]:
    def adapter(
        *, in_channels: int, inter_channels: int | None = None, sub_sample: bool = True, bn_layer: bool = True
    ) -> Adapted:
        width = inter_channels or max(1, in_channels // 2)
        module = NonLocal(
            in_channels,
            width=width,
            pairwise=pairwise,
            subsample=sub_sample,
            norm=bn_layer,
        )
        # A layer followed by a pooling or by BatchNorm is the first of a sequence.
        layers = {
            "theta": "theta",
            "phi": "phi.0" if sub_sample else "phi",
            "g": "g.0" if sub_sample else "g",
            "pair": "concat_project.0",
            "output": "W.0" if bn_layer else "W",
            "norm": "W.1",
        }
        return Adapted(module, layer_names(layers, module))

    return adapter


def of_timm(*, in_channels: int, rd_channels: int | None = None, use_scale: bool = True) -> Adapted:
    # Its scale is that of the map's channels, not of the embeddings'.
    scale = in_channels**-0.5 if use_scale else 1.0
    module = NonLocal(in_channels, width=rd_channels or multiple_of_8(in_channels), scale=scale)
    layers = {"theta": "t", "phi": "p", "g": "g", "output": "z", "norm": "norm"}
    return Adapted(module, layer_names(layers, module))


ADAPTERS = {
    ("nonlocal", "AlexHex7/Non-local_pytorch", f"lib/non_local_{pairwise}.py"): of_alexhex7(pairwise)
    for pairwise in ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
} | {("nonlocal", "huggingface/pytorch-image-models (timm wheel)", "timm/layers/non_local_attn.py"): of_timm}
