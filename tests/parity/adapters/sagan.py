"""SAGAN self-attention: the authors' block, and a popular one without pooling, output layer and normalisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from parity.adapted import Adapted, Through
from saccade.attention.sagan import SAGANAttention, SpectralConv2d, spectrally_normalised
from saccade.errors import UsageError


def of_heykeetae(*, in_dim: int) -> Adapted:
    module = SAGANAttention(in_dim, reduction=8, value_reduction=None, bias=True)
    names = {f"{layer}_conv.{kind}": f"{layer}.{kind}" for layer in ("query", "key", "value") for kind in KINDS}
    return Adapted(module, names | {"gamma": "gamma"}, aux={"attention": module.attention_map})


def of_authors(
    *,
    C: int,  # noqa: N803  the file's own key
    spectral_norm_iters: int = 1,
    update_collection: str | None = None,
) -> Adapted:
    if spectral_norm_iters != 1:
        raise UsageError(f"`spectral_norm_iters` (={spectral_norm_iters}) must be 1, as in the authors' block")
    module = SAGANAttention(
        C,
        reduction=8,
        value_reduction=2,
        pool=True,
        spectral_norm=True,
    )
    layers = {"sn_conv_theta": "query", "sn_conv_phi": "key", "sn_conv_g": "value", "sn_conv_attn": "output"}
    # Given a collection, the reference's forward pass does not store u; ours does not in eval mode.
    stores = update_collection is None
    prefix = "" if stores else "module."
    names = {f"{theirs}.w": f"{prefix}{ours}.weight" for theirs, ours in layers.items()}
    names |= {f"{theirs}.u": f"{prefix}{ours}.u" for theirs, ours in layers.items()}
    names |= {"sigma_ratio": f"{prefix}gamma"}
    aux = {f"{theirs}.w_bar": _normalised(module.get_submodule(ours)) for theirs, ours in layers.items()}
    return Adapted(module if stores else Through(module, lambda module, x: module.eval()(x)), names, aux)


def _normalised(conv: SpectralConv2d) -> Callable[[Tensor], Tensor]:
    return lambda x: spectrally_normalised(conv.weight, conv.u)[0]


KINDS = ("weight", "bias")

ADAPTERS = {
    ("sagan", "heykeetae/Self-Attention-GAN", "sagan_models.py"): of_heykeetae,
    ("sagan", "brain-research/self-attention-gan", "non_local.py sn_non_local_block_sim + ops.py"): of_authors,
}
