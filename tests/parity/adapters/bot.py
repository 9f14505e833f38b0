"""Bottleneck-transformer attention: timm's layer and a port of the authors' listing."""

from __future__ import annotations

from parity.adapted import Adapted, multiple_of_8, size_pair
from saccade.attention.bot import BoTAttention2d


def of_timm(
    *,
    dim: int,
    feat_size: int | list[int],
    num_heads: int = 4,
    dim_head: int | None = None,
    scale_pos_embed: bool = False,
) -> Adapted:
    module = BoTAttention2d(
        dim,
        dim,
        heads=num_heads,
        # Without a depth of its own it rounds the channels to a multiple of 8.
        key_depth=dim_head or multiple_of_8(dim) // num_heads,
        scale_positions=scale_pos_embed,
        feature_size=size_pair(feat_size),
    )
    names = {"qkv.weight": "qkv.weight", "pos_embed.height_rel": "rel_h", "pos_embed.width_rel": "rel_w"}
    return Adapted(module, names)


def of_lucidrains(
    *, dim: int, fmap_size: int | list[int], heads: int = 4, dim_head: int = 128, rel_pos_emb: bool = False
) -> Adapted:
    module = BoTAttention2d(
        dim,
        heads * dim_head,
        heads=heads,
        positions="relative" if rel_pos_emb else "absolute",
        feature_size=size_pair(fmap_size),
    )
    if rel_pos_emb:
        tables = {"pos_emb.rel_height": "rel_h", "pos_emb.rel_width": "rel_w"}
    else:
        tables = {"pos_emb.height": "pos_h", "pos_emb.width": "pos_w"}
    return Adapted(module, {"to_qkv.weight": "qkv.weight", **tables})


ADAPTERS = {
    ("bot", "huggingface/pytorch-image-models (timm wheel)", "timm/layers/bottleneck_attn.py"): of_timm,
    (
        "bot",
        "lucidrains/bottleneck-transformer-pytorch",
        "bottleneck_transformer_pytorch/bottleneck_transformer_pytorch.py",
    ): of_lucidrains,
}
