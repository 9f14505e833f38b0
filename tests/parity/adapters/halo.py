"""Halo attention: timm's layer, and a port whose mask is the wrong way round."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from parity.adapted import Adapted, Fault, Slot, multiple_of_8
from saccade.attention.halo import HaloAttention2d
from saccade.errors import UsageError


def of_timm(
    *,
    dim: int,
    num_heads: int = 8,
    dim_head: int | None = None,
    block_size: int = 8,
    halo_size: int = 3,
    scale_pos_embed: bool = False,
) -> Adapted:
    module = HaloAttention2d(
        dim,
        dim,
        heads=num_heads,
        key_depth=dim_head or multiple_of_8(dim) // num_heads,
        block_size=block_size,
        halo_size=halo_size,
        mask=False,
        scale_positions=scale_pos_embed,
    )
    depths = (module.key_depth, module.value_depth)

    def keys_first(kv: Tensor) -> Tensor:
        """Head by head keys and values -> all keys, then all values."""
        return torch.cat([part.flatten(0, 1) for part in kv.unflatten(0, (num_heads, -1)).split(depths, dim=1)])

    names = {
        "q.weight": "q.weight",
        "kv.weight": Slot("kv.weight", permute=keys_first),
        "pos_embed.height_rel": "rel_h",
        "pos_embed.width_rel": "rel_w",
    }
    return Adapted(module, names)


def of_lucidrains(
    *,
    dim: int,
    block_size: int,
    halo_size: int,
    dim_head: int = 64,
    heads: int = 8,
    masked_padding: bool = False,
) -> Adapted:
    """Ours is the same for both values of ``masked_padding``: the port as it is (False) is wrong, see ``FAULTS``."""
    if not isinstance(masked_padding, bool):
        raise UsageError(f"`masked_padding` (={masked_padding!r}) must be True or False")
    module = HaloAttention2d(
        dim,
        dim,
        heads=heads,
        key_depth=dim_head,
        value_depth=dim_head,
        block_size=block_size,
        halo_size=halo_size,
        proj=True,
    )
    names = {
        "rel_pos_emb.rel_height": "rel_h",
        "rel_pos_emb.rel_width": "rel_w",
        "to_q.weight": "q.weight",
        "to_kv.weight": "kv.weight",
        "to_out.weight": "proj.weight",
        "to_out.bias": "proj.bias",
    }
    return Adapted(module, names)


def inverted(module: HaloAttention2d, x: Tensor) -> Tensor:
    """Our layer with the pixels hidden and the padding seen.

    A window with padding gives the padding's zeros; in one without, all is hidden alike: the mean of its values.
    """
    values = module.kv(x)[:, module.heads * module.key_depth :]
    window = module.block + 2 * module.halo
    whole = torch.ones_like(values[:, :1])
    mean, share = (F.avg_pool2d(part, window, module.block, padding=module.halo) for part in (values, whole))
    of_blocks = mean * (share > 1 - 0.5 / window**2)
    return module.proj(F.interpolate(of_blocks, scale_factor=module.block))


LUCIDRAINS = ("halo", "lucidrains/halonet-pytorch", "halonet_pytorch/halonet_pytorch.py")

ADAPTERS = {
    ("halo", "huggingface/pytorch-image-models (timm wheel)", "timm/layers/halo_attn.py"): of_timm,
    LUCIDRAINS: of_lucidrains,
}
FAULTS = {
    LUCIDRAINS: Fault(
        "the mask hides the pixels and shows the padding around the map",
        distance=0.1,
        reproduce=inverted,
    ),
}
