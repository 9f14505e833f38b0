"""Lambda layer: timm's, and the one by lucidrains."""

from __future__ import annotations

from torch import Tensor

from parity.adapted import Adapted, Slot, multiple_of_8, size_pair
from saccade.attention.lambda_ import LambdaLayer2d
from saccade.errors import UsageError

NORMS = {
    f"{norm}.{kind}": f"{norm}.{kind}"
    for norm in ("norm_q", "norm_v")
    for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
}


def of_timm(
    *,
    dim: int,
    feat_size: int | list[int] | None = None,
    num_heads: int = 4,
    dim_head: int | None = 16,
    r: int | None = 9,
) -> Adapted:
    module = LambdaLayer2d(
        dim,
        dim,
        heads=num_heads,
        key_depth=dim_head or multiple_of_8(dim) // num_heads,
        context=r,
        # With a local context timm takes a size and does not read it.
        feature_size=size_pair(feat_size) if r is None and feat_size is not None else None,
        position_bias=r is not None,
    )
    names: dict[str, str | Slot] = {"qkv.weight": "qkv.weight", **NORMS}
    if r is not None:
        names |= {"conv_lambda.weight": "embeddings", "conv_lambda.bias": "position_bias"}
        return Adapted(module, names)
    names["pos_emb"] = Slot("embeddings", permute=lambda table: table.permute(2, 0, 1))
    return Adapted(module, names, constants=frozenset({"rel_pos_indices"}))


def of_lucidrains(
    *, dim: int, dim_k: int, n: int | None = None, r: int | None = None, heads: int = 4, dim_u: int = 1
) -> Adapted:
    if r is None and n is None:
        raise UsageError("a lambda file must give `r` or `n`")
    module = LambdaLayer2d(
        dim,
        dim,
        heads=heads,
        key_depth=dim_k,
        intra_depth=dim_u,
        context=r,
        feature_size=n if r is None else None,
        position_bias=r is not None,
    )
    names: dict[str, str | Slot] = dict(NORMS)
    end = 0
    for layer, rows in zip(("to_q", "to_k", "to_v"), module.widths, strict=True):
        names[f"{layer}.weight"] = Slot("qkv.weight", rows=(end, end + rows))
        end += rows
    if r is not None:
        names |= {"pos_conv.weight": "embeddings", "pos_conv.bias": "position_bias"}
    else:
        names["rel_pos_emb"] = Slot("embeddings", permute=_filters)
    return Adapted(module, names)


def _filters(table: Tensor) -> Tensor:
    """(2n-1, 2n-1, k, u) -> (k, u, 2n-1, 2n-1)."""
    return table.permute(2, 3, 0, 1)


ADAPTERS = {
    ("lambda", "huggingface/pytorch-image-models (timm wheel)", "timm/layers/lambda_layer.py"): of_timm,
    ("lambda", "lucidrains/lambda-networks", "lambda_networks/lambda_networks.py"): of_lucidrains,
}
