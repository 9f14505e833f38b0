"""Global context: the authors' block."""

from __future__ import annotations

from parity.adapted import Adapted, layer_names
from saccade.attention.gc import GlobalContext
from saccade.errors import UsageError

FUSE = {
    ("channel_add",): "add",
    ("channel_mul",): "mul",
    ("channel_add", "channel_mul"): "add+mul",
}
POOLING = {"att": "attention", "avg": "mean"}


def of_authors(
    *,
    inplanes: int,
    ratio: float = 1 / 16,
    pooling_type: str = "att",
    fusion_types: list[str] | tuple[str, ...] = ("channel_add",),
) -> Adapted:
    fusion = tuple(sorted(fusion_types))
    if fusion not in FUSE or pooling_type not in POOLING:
        raise UsageError(
            f"`fusion_types` (={fusion_types}), `pooling_type` (={pooling_type!r}): not the authors' block's"
        )
    module = GlobalContext(
        inplanes,
        width=int(inplanes * ratio),
        pooling=POOLING[pooling_type],
        fuse=FUSE[fusion],
    )
    layers = {f"fuse.{way}.{place}": f"channel_{way}_conv.{place}" for way in ("add", "mul") for place in (0, 1, 3)}
    return Adapted(module, layer_names({"mask": "conv_mask"} | layers, module))


ADAPTERS = {("gc", "xvjiarui/GCNet", "mmdet/ops/gcb/context_block.py"): of_authors}
